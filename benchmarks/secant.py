"""What a meta-gradient costs by secant conjugate gradient, beside exact Hessian products.

    python -m benchmarks.secant [--seeds N] [--out results/secant.json] [--part NAME]

`accuracy`: the processor time to an error, which others on the machine disturb least, of
`Contrastive` with `secant_cg` and of `Implicit("cg")`, each with as few iterations as reach it, in
turns, where the free phase is given: logistic regression on digits, the tanh network of `python -m
benchmarks accuracy`, a convolutional network, attention.
`warm`: gradients a meta-step for 1% error, from the direction of the last one, where theta has
moved. `bilevel`: value function against time on l2-regularised logistic regression, beside SOBA,
SABA, AmIGO and F2SA. Some ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree

import metacontrast as mc
from benchmarks._bilevel import GAPS, RIVALS, bilevel
from benchmarks._measure import ratios, summarise, time_in_turns
from benchmarks._run import machine
from benchmarks._smooth_problems import SmoothProblem, digits, network
from metacontrast._solver._base import Start
from metacontrast.train import provenance

TARGETS = (1e-1, 1e-2, 1e-3, 1e-4)
MOST = 400  # iterations, of the reference too
ROUNDS, SAMPLE = 21, 0.02
MOVES = (0.02, 0.2)  # of log lambda, between two meta-steps
COMMAND = "python -m benchmarks.secant"


def classified(net: Any, x: jax.Array, y: jax.Array, lam: float, seed: int) -> SmoothProblem:
    """Half of the examples to learn from, half to judge; every weight is a complex synapse."""

    def error(phi: PyTree, data: mc.Data) -> jax.Array:
        logits = net.apply(phi, data.x)
        right = jnp.take_along_axis(logits, data.y[..., None], axis=-1)[..., 0]
        return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - right)

    problem = mc.Problem(
        init=lambda theta, task: theta.omega,
        inner=lambda phi, theta, task: error(phi, task.train) + theta.pull(phi),
        outer=lambda phi, theta, task: error(phi, task.test),
    )
    omega = jax.tree.map(lambda w: jnp.asarray(w, float), net.init(jax.random.key(seed)))
    theta = mc.Synapse(omega, jax.tree.map(lambda w: jnp.full(w.shape, math.log(lam)), omega))
    halves = [mc.Data(x[i::2], y[i::2]) for i in range(2)]
    return SmoothProblem(problem, theta, mc.Task(*halves), 0.1)


class Convolutions:
    """Two layers of strided 3 x 3 convolutions with tanh units, and a linear one."""

    filters, classes = 8, 5

    def init(self, key: jax.Array) -> PyTree:
        """Weights of unit gain."""
        keys, n = jax.random.split(key, 3), self.filters
        shapes = {"first": (3, 3, 1, n), "second": (3, 3, n, n), "last": (16 * n, self.classes)}
        normal = lambda key, shape: jax.random.normal(key, shape) / math.prod(shape[:-1]) ** 0.5
        return {name: normal(k, shapes[name]) for k, name in zip(keys, shapes, strict=True)}

    def apply(self, phi: PyTree, x: jax.Array) -> jax.Array:
        """Logits of images (n, 16, 16, 1)."""
        for name in ("first", "second"):
            layout = ("NHWC", "HWIO", "NHWC")
            x = jnp.tanh(
                jax.lax.conv_general_dilated(x, phi[name], (2, 2), "SAME", dimension_numbers=layout)
            )
        return x.reshape(len(x), -1) @ phi["last"]


def convolutional(seed: int = 0) -> SmoothProblem:
    """A small convolutional network on 40 images of noise in five classes."""
    x = jax.random.normal(jax.random.key(100 + seed), (40, 16, 16, 1), float)
    return classified(Convolutions(), x, jnp.arange(40) // 2 % 5, 0.02, seed)


class Attention:
    """Softmax attention to what came before, between an embedding and a layer of tanh units."""

    symbols, length, width = 16, 24, 16

    def init(self, key: jax.Array) -> PyTree:
        """Weights of unit gain."""
        names, n = ("query", "key", "value", "up", "out", "symbol", "place"), self.width
        shapes = dict.fromkeys(names, (n, n)) | {"out": (n, self.symbols)}
        shapes |= {"symbol": (self.symbols, n), "place": (self.length, n)}
        keys = jax.random.split(key, len(names))
        gain = {"symbol": 1.0, "place": 1.0}
        normal = lambda key, name: jax.random.normal(key, shapes[name]) * gain.get(name, n**-0.5)
        return {name: normal(key, name) for key, name in zip(keys, names, strict=True)}

    def apply(self, phi: PyTree, x: jax.Array) -> jax.Array:
        """The logits of the next symbols, of sequences (n, t) of symbols."""
        h = phi["symbol"][x] + phi["place"][None]
        query, key, value = (h @ phi[name] for name in ("query", "key", "value"))
        # By hand: jax.nn.dot_product_attention takes its softmax in float32, whatever comes in.
        scores = query @ jnp.swapaxes(key, 1, 2) / self.width**0.5
        seen = jnp.tril(jnp.ones(scores.shape[1:], bool))
        h = h + jax.nn.softmax(jnp.where(seen[None], scores, -jnp.inf), axis=-1) @ value
        return (h + jnp.tanh(h @ phi["up"])) @ phi["out"]


def attention(seed: int = 0) -> SmoothProblem:
    """Attention on 32 sequences of noise, half of them to learn from."""
    x = jax.random.randint(jax.random.key(100 + seed), (32, 25), 0, 16)
    return classified(Attention(), x[:, :-1], x[:, 1:], 0.02, seed)


PROBLEMS: dict[str, Callable[[int], SmoothProblem]] = {
    "digits": lambda seed: digits(seed, 500, 1297),
    "network": network,
    "convolutions": convolutional,
    "attention": attention,
}


def given(smooth: SmoothProblem) -> tuple[SmoothProblem, mc.Solver]:
    """The same where the free phase is given, as part of the task; and the solver that stays."""
    learn = mc.newton_cg(1e-10, 100, 200)
    phi_0 = jax.jit(lambda *z: mc.solve_inner(smooth.problem, learn, *z).phi)(*smooth[1:3])
    problem = mc.Problem(
        init=lambda theta, z: z[1],
        inner=lambda phi, theta, z: smooth.problem.inner(phi, theta, z[0]),
        outer=lambda phi, theta, z: smooth.problem.outer(phi, theta, z[0]),
    )
    stay = mc.as_solver(lambda loss, phi: phi)
    return smooth._replace(problem=problem, task=(smooth.task, phi_0)), stay


@dataclass(frozen=True)
class Products(mc.Implicit):
    """Implicit differentiation whose number of products may be traced: one program for all."""

    def __post_init__(self) -> None:
        """Not checked."""


def secant(k: Any) -> mc.Estimator:
    """The contrast whose nudged phases take k gradients, all of them together."""
    some: Any = mc.secant_cg()
    solver = replace(some, iterations=k)  # which may be traced too
    return mc.Contrastive(None, "symmetric", nudge="linear", nudged=solver)


def implicit(k: Any) -> mc.Estimator:
    """Conjugate gradient with k Hessian products."""
    return Products("cg", k)


METHODS = {"secant": secant, "implicit": implicit}


def accuracy(seed: int, progress: Callable[[str], None]) -> dict[str, Any]:
    """Iterations and seconds of both methods to each error, and the ratio of the seconds."""
    found = {}
    for name, make in PROBLEMS.items():
        progress(f"accuracy, seed {seed}: {name}")
        smooth, stay = given(make(seed))
        found[name] = time_to_errors(smooth, stay)
        progress(json.dumps({t: row["ratio"] for t, row in found[name].items()}))
    return found


def time_to_errors(smooth: SmoothProblem, stay: mc.Solver) -> dict[str, Any]:
    """Of one problem: for each error, what both take."""

    def compiled(method: str) -> Callable[[int], np.ndarray]:
        def gradient(k: jax.Array, theta: PyTree, task: PyTree) -> jax.Array:
            run = mc.meta_gradient(smooth.problem, stay, METHODS[method](k), by_z=False)
            return ravel_pytree(run(theta, task).by_theta)[0]

        arguments = smooth.theta, smooth.task
        run = jax.jit(gradient).lower(jnp.array(1), *arguments).compile()
        return lambda k: np.asarray(run(jnp.array(k), *arguments))

    runs = {method: compiled(method) for method in METHODS}
    exact = runs["implicit"](MOST)

    @cache
    def error(method: str, k: int) -> float:
        return float(np.linalg.norm(runs[method](k) - exact) / np.linalg.norm(exact))

    def reaches(method: str, target: float) -> Callable[[int], bool]:
        return lambda k: error(method, k) <= target

    rows: dict[str, Any] = {}
    for target in TARGETS:
        ks = {method: fewest(reaches(method, target)) for method in METHODS}
        if None in ks.values():
            rows[f"{target:.0e}"] = {"iterations": ks, "ratio": None}
            continue
        seconds = time_in_turns(
            {m: partial(runs[m], k) for m, k in ks.items() if k is not None},
            ROUNDS,
            SAMPLE,
            clock=time.process_time,
        )
        known = {method: k for method, k in ks.items() if k is not None}
        ratio = summarise("secant", "ratio", ratios(seconds, "secant", "implicit"))
        rows[f"{target:.0e}"] = {
            "iterations": ks,
            "errors": {m: error(m, k) for m, k in known.items()},
            "ms": {m: 1e3 * float(np.median(s)) for m, s in seconds.items()},
            "ratio": ratio.value,
            "quartiles": [ratio.low, ratio.high],
        }
    return rows


def fewest(enough: Callable[[int], bool]) -> int | None:
    """The least number that is enough, by doubling and halving; None if MOST is not."""
    high = 1
    while not enough(high):
        if high >= MOST:
            return None
        high = min(2 * high, MOST)
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def warm(seed: int) -> dict[str, Any]:
    """Gradients for 1% error from nothing, and from the last direction, after each move."""
    smooth, stay = given(digits(seed))
    learner = digits(seed)
    last = jax.jit(mc.meta_gradient(smooth.problem, stay, secant(100), by_z=False))
    starts = last(smooth.theta, smooth.task).phases
    found = {}
    for move in MOVES:
        step = move * jax.random.normal(jax.random.key(seed), smooth.theta.shape)
        there, _ = given(learner._replace(theta=learner.theta + step))
        exact = mc.meta_gradient(there.problem, stay, implicit(MOST), by_z=False)
        true = exact(there.theta, there.task).by_theta
        now = starts._replace(free=Start(there.task[1]))

        @jax.jit
        def run(k: Any, starts: Any, there: Any = there) -> Any:
            gradient = mc.meta_gradient(there.problem, stay, secant(k), by_z=False)
            return gradient(there.theta, there.task, None, starts).by_theta

        def products(starts: Any, run: Any = run, true: Any = true) -> int | None:
            def enough(k: int) -> bool:
                grad = run(k, starts)
                return bool(jnp.linalg.norm(grad - true) <= 1e-2 * jnp.linalg.norm(true))

            return fewest(enough)

        # Beside the products: the slope at phi_0, and the two nodes of the contrast.
        pair = {"cold": products(None), "warm": products(now)}
        found[f"{move:g}"] = {which: n and n + 3 for which, n in pair.items()}
    return found


def report(found: dict[str, Any]) -> str:
    """What was measured, in the words of the page on speed; ranges are over seeds."""
    lines = [f"{'secant / implicit':24}" + "".join(f"{t:>18.0e}" for t in TARGETS)]
    for name in PROBLEMS:
        line = f"{name:24}"
        for target in TARGETS:
            rows = [row[name][f"{target:.0e}"] for row in found["accuracy"]["rows"]]
            ratios_found = [row["ratio"] for row in rows if row["ratio"] is not None]
            line += f"{_spread(ratios_found, 2):>18}"
        lines.append(line)
    lines += ["", f"{'gradients for 1% error':24}{'cold':>18}{'warm':>18}"]
    for move in found["warm"]["rows"][0]:
        pair = [[row[move][which] for row in found["warm"]["rows"]] for which in ("cold", "warm")]
        lines.append(
            f"log lambda moved by {move:4}"
            + "".join(f"{_spread(values, 0):>18}" for values in pair)
        )
    if "bilevel" in found:
        gaps = [f"{gap:g}" for gap in GAPS]
        lines += ["", f"{'seconds to a gap of':24}" + "".join(f"{gap:>18}" for gap in gaps)]
        for name in ("ours", *RIVALS):
            rows = [row[name] for row in found["bilevel"]["rows"]]
            cells = [[row[gap] and row[gap][0] for row in rows] for gap in gaps]
            lines.append(f"{name:24}" + "".join(f"{_spread(values, 2):>18}" for values in cells))
    return "\n".join(line.rstrip() for line in lines)


def _spread(values: list[float | None], digits: int) -> str:
    """The median and the range; a dash where one of them is not there."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return "-"
    low, middle, high = (f"{q:.{digits}f}" for q in np.percentile(known, (0, 50, 100)))
    return middle if low == high else f"{middle} ({low}-{high})"


def main() -> None:
    """Measure, and write the parts into the file, which keeps those that are not asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--part", choices=("accuracy", "warm", "bilevel"), action="append")
    parser.add_argument("--out", type=Path, default=Path("results/secant.json"))
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    parts = {
        "accuracy": lambda seed: accuracy(seed, lambda text: print(text, flush=True)),
        "warm": warm,
        "bilevel": bilevel,
    }
    known = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    for name in options.part or list(parts):
        seeds = list(range(options.seeds))
        command = f"{COMMAND} --part {name} --seeds {options.seeds}"
        facts = {"command": command, "seeds": seeds, "machine": machine(), **provenance()}
        known[name] = facts | {"rows": [parts[name](seed) for seed in seeds]}
        options.out.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    if {"accuracy", "warm"} <= set(known):
        print(report(known))


if __name__ == "__main__":
    main()
