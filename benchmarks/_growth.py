"""Part `growth`: memory and time against inner steps, tasks and weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

import metacontrast as mc
from metacontrast.nets import Net, mlp
from metacontrast.tasks import sine

from ._growth_figure import draw
from ._learners import sine_problem
from ._measure import Measurement, summarise, time_in_turns
from ._result import PartResult, Plot, Progress

ESTIMATORS: dict[str, mc.Estimator] = {
    "contrastive": mc.Contrastive(0.05, "symmetric"),
    "unrolled": mc.Unrolled(),
    "unrolled, rematerialised": mc.Unrolled(remat=True),
    "unrolled, truncated to 10": mc.Unrolled(truncate=10),
    "implicit, CG": mc.Implicit("cg", 10, damping=10.0),
}
TIMED = ("contrastive", "unrolled")
SIZES = {
    "inner steps": (10, 100, 1_000, 10_000),
    "tasks": (1, 4, 16, 64, 256, 1_024),
    "weights": (1_000, 10_000, 100_000, 1_000_000, 10_000_000),
}
MAX_BYTES = 2**31  # of intermediate results; what needs more is not run


class Compiled(NamedTuple):
    """The program of a meta-gradient, and its arguments."""

    program: Any
    args: tuple[PyTree, PyTree]

    @property
    def bytes(self) -> int:
        """What the compiler sets aside for intermediate results: exact, and without a run."""
        return int(self.program.memory_analysis().temp_size_in_bytes)

    def run(self) -> PyTree:
        """The meta-gradient."""
        return jax.block_until_ready(self.program(*self.args))


def growth(quick: bool, progress: Progress) -> PartResult:
    """One meta-gradient of sines: 1-w-w-1 network, complex synapses, momentum."""
    tables: dict[str, list[Measurement]] = {}
    for axis, sizes in SIZES.items():
        sizes = sizes[:2] if quick else sizes
        memory, seconds = [], []
        for size in sizes:
            progress(f"{size:,} {axis}")
            compiled = {name: compile_gradient(axis, size, name) for name in _names(axis, quick)}
            kib = {name: each.bytes / 1024 for name, each in compiled.items()}
            memory += [Measurement(name, f"{size:,}", n) for name, n in kib.items()]
            seconds += _time(compiled, f"{size:,}", quick)
        ratio = sizes[-1] / sizes[-2]
        tables[f"KiB of intermediate results by {axis}"] = memory + growth_factors(memory)
        tables[f"ms by {axis}"] = seconds + exponents(seconds, ratio)
    return PartResult(tables, plot=Plot(partial(draw, tables), 2, 3))


def growth_factors(memory: list[Measurement]) -> list[Measurement]:
    """How much each estimator's memory grows from the smallest to the largest size."""
    return [
        Measurement(name, "last / first", own[-1].value / own[0].value)
        for name, own in _by_subject(memory).items()
    ]


def exponents(seconds: list[Measurement], ratio: float) -> list[Measurement]:
    """`p` of a time that goes as `size^p`, from the last two sizes, `ratio` apart: 1 is linear."""
    return [
        Measurement(name, "exponent", math.log(own[-1].value / own[-2].value) / math.log(ratio))
        for name, own in _by_subject(seconds).items()
        if len(own) > 1
    ]


def _by_subject(measurements: list[Measurement]) -> dict[str, list[Measurement]]:
    names = dict.fromkeys(m.subject for m in measurements)
    return {name: [m for m in measurements if m.subject == name] for name in names}


def _names(axis: str, quick: bool) -> tuple[str, ...]:
    """All where only steps grow, which is what tells them apart."""
    return tuple(ESTIMATORS) if axis == "inner steps" and not quick else TIMED


def network(axis: str, size: int) -> Net:
    """1-w-w-1 with `w^2 + 4 w + 1` weights: as many as asked for, or w = 40."""
    width = round(math.sqrt(size + 3)) - 2 if axis == "weights" else 40
    return mlp(1, width, 2, 1, jnp.tanh)


def compile_gradient(axis: str, size: int, name: str) -> Compiled:
    """The mean meta-gradient of tasks, of which `size` many steps, tasks or weights are taken."""
    steps = size if axis == "inner steps" else 20
    tasks = size if axis == "tasks" else 1
    net = network(axis, size)
    solver = mc.descend(optax.sgd(1e-5, 0.9), steps)  # of no harm to the widest network
    gradient = mc.meta_gradient(sine_problem(net.apply), solver, ESTIMATORS[name], by_z=False)

    def mean(theta: mc.Synapse, tasks: mc.Task) -> PyTree:
        grads = jax.vmap(lambda task: gradient(theta, task).by_theta)(tasks)
        return jax.tree.map(lambda leaf: jnp.mean(leaf, 0), grads)

    omega = net.init(jax.random.key(0))
    theta = mc.Synapse(omega, jax.tree.map(jnp.zeros_like, omega))
    args = (theta, jax.vmap(sine)(jax.random.split(jax.random.key(1), tasks)))
    return Compiled(jax.jit(mean).lower(*args).compile(), args)


def _time(compiled: Mapping[str, Compiled], column: str, quick: bool) -> list[Measurement]:
    programs: dict[str, Callable[[], PyTree]] = {
        name: compiled[name].run for name in TIMED if compiled[name].bytes < MAX_BYTES
    }
    seconds = time_in_turns(programs, 3 if quick else 9, 0.02, max_total=1 if quick else 6)
    return [summarise(name, column, 1e3 * values) for name, values in seconds.items()]
