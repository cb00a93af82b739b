"""Part `growth`: memory and time against inner steps, tasks and weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import metacontrast as mc

from ..nets import Net, mlp
from ..tasks import sine as draw
from ._growth_figure import panels
from ._measure import Figure, interleaved, summary
from ._part import Drawing, Found, Tell

RULES: dict[str, Any] = {
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
LARGEST = 2**31  # bytes of intermediate results; what needs more is not run


def growth(quick: bool, tell: Tell) -> Found:
    """One meta-gradient of sines: 1-w-w-1 network, complex synapses, momentum.

    Memory is what the compiler sets aside for intermediate results: exact, and without a run.
    """
    tables: dict[str, list[Figure]] = {}
    for axis, sizes in SIZES.items():
        sizes = sizes[:2] if quick else sizes
        memory, seconds = [], []
        for size in sizes:
            tell(f"{size:,} {axis}")
            compiled = {name: _compiled(axis, size, name) for name in _rules(axis, quick)}
            bytes_ = {name: _temporary(program) for name, (program, _) in compiled.items()}
            memory += [Figure(name, f"{size:,}", n / 1024) for name, n in bytes_.items()]
            seconds += _timed(compiled, bytes_, f"{size:,}", quick)
        ratio = sizes[-1] / sizes[-2]
        tables[f"KiB of intermediate results by {axis}"] = memory + last_over_first(memory)
        tables[f"ms by {axis}"] = seconds + exponents(seconds, ratio)
    return Found(tables, drawing=Drawing(partial(panels, tables), 2, 3))


def last_over_first(memory: list[Figure]) -> list[Figure]:
    """How much each rule's memory grows from the smallest to the largest size."""
    return [
        Figure(name, "last / first", own[-1].value / own[0].value)
        for name, own in _by_subject(memory).items()
    ]


def exponents(seconds: list[Figure], ratio: float) -> list[Figure]:
    """`p` of a time that goes as `size^p`, from the last two sizes, `ratio` apart: 1 is linear."""
    return [
        Figure(name, "exponent", math.log(own[-1].value / own[-2].value) / math.log(ratio))
        for name, own in _by_subject(seconds).items()
        if len(own) > 1
    ]


def _by_subject(figures: list[Figure]) -> dict[str, list[Figure]]:
    names = dict.fromkeys(figure.subject for figure in figures)
    return {name: [figure for figure in figures if figure.subject == name] for name in names}


def _rules(axis: str, quick: bool) -> tuple[str, ...]:
    """All where only steps grow, which is what tells them apart."""
    return tuple(RULES) if axis == "inner steps" and not quick else TIMED


def network(axis: str, size: int) -> Net:
    """1-w-w-1 with `w^2 + 4 w + 1` weights: as many as asked for, or w = 40."""
    width = round(math.sqrt(size + 3)) - 2 if axis == "weights" else 40
    return mlp(1, width, 2, 1, jnp.tanh)


def _compiled(axis: str, size: int, rule: str) -> tuple[Any, tuple[Any, Any]]:
    """The program of a meta-gradient, and its arguments."""
    steps = size if axis == "inner steps" else 20
    tasks = size if axis == "tasks" else 1
    net = network(axis, size)
    solve = mc.descend(optax.sgd(1e-5, 0.9), steps)  # of no harm to the widest network
    value = RULES[rule].value_and_grad

    def mean(theta: Any, tasks: Any) -> Any:
        grads = jax.vmap(lambda task: value(_problem(net), solve, theta, task)[1])(tasks)
        return jax.tree.map(lambda leaf: jnp.mean(leaf, 0), grads)

    omega = net.init(jax.random.key(0))
    theta = (omega, jax.tree.map(jnp.zeros_like, omega))
    args = (theta, jax.vmap(draw)(jax.random.split(jax.random.key(1), tasks)))
    return jax.jit(mean).lower(*args).compile(), args


def _problem(net: Any) -> mc.Problem:
    def error(phi: Any, data: mc.Data) -> jax.Array:
        return jnp.sum((jax.vmap(partial(net.apply, phi))(data.x) - data.y) ** 2)

    return mc.Problem(
        init=lambda theta, task: theta[0],
        inner=lambda phi, theta, task: error(phi, task.train) + mc.attraction(phi, *theta),
        outer=lambda phi, theta, task: error(phi, task.test),
    )


def _temporary(program: Any) -> int:
    return int(program.memory_analysis().temp_size_in_bytes)


def _timed(
    compiled: Mapping[str, Any], bytes_: Mapping[str, int], column: str, quick: bool
) -> list[Figure]:
    def ran(program: Any, args: Any) -> Callable[[], Any]:
        return lambda: jax.block_until_ready(program(*args))

    subjects = {name: ran(*compiled[name]) for name in TIMED if bytes_[name] < LARGEST}
    taken = interleaved(subjects, 3 if quick else 9, least=0.02, most=1 if quick else 6)
    return [summary(name, column, 1e3 * np.asarray(values)) for name, values in taken.items()]
