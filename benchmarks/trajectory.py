"""Gradients of the steps that were taken, by contrasts: how exact, how long, how much memory.

    python -m benchmarks.trajectory [--seeds N] [--quick] [--result FILE]

Data weights of small networks through Adam, a third of the labels wrong, in float32: relative
error and cosine with `Unrolled` of the same run, its time beside plain training (interleaved), and
what the compiler sets aside beside `Unrolled(remat=True)`. Last, what it sets aside for 1,000 steps
of a transformer of a million weights, which are compiled and not run. About twenty minutes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

import metacontrast as mc
from benchmarks._kept import keep
from metacontrast.nets import lenet5, transformer

EXAMPLES, FEATURES, HIDDEN, TOKENS, TURNS = 256, 8, 32, 4, 5
IMAGES, SEQUENCES, LENGTH, SYMBOLS = 64, 32, 64, 64


class Case(NamedTuple):
    """A network, how long it learns, and by which product; whether kinks are held."""

    activation: str
    steps: int
    rule: mc.Trajectory
    narrow: bool = False
    held: bool = True


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "tanh": jnp.tanh,
    "GELU": jax.nn.gelu,
    "SiLU": jax.nn.silu,
    "ReLU": jax.nn.relu,
}
CASES = {
    "tanh": Case("tanh", 1000, mc.Trajectory()),
    "GELU": Case("GELU", 1000, mc.Trajectory()),
    "SiLU": Case("SiLU", 1000, mc.Trajectory()),
    "attention with layer norm": Case("attention", 1000, mc.Trajectory()),
    "GELU, roots kept": Case("GELU", 1000, mc.Trajectory(keep="sqrt")),
    "GELU in bfloat16": Case("GELU", 200, mc.Trajectory(), narrow=True),
    "ReLU": Case("ReLU", 300, mc.Trajectory()),
    "ReLU, exact": Case("ReLU", 300, mc.Trajectory("exact")),
    "ReLU, kinks not held": Case("ReLU", 300, mc.Trajectory(), held=False),
    "ReLU, not held, h = 0.1": Case("ReLU", 300, mc.Trajectory(h=0.1), held=False),
    "LeNet-5": Case("LeNet-5", 100, mc.Trajectory()),
    "LeNet-5, exact": Case("LeNet-5", 100, mc.Trajectory("exact")),
    "LeNet-5, kinks not held": Case("LeNet-5", 100, mc.Trajectory(), held=False),
    "LeNet-5, not held, h = 0.1": Case("LeNet-5", 100, mc.Trajectory(h=0.1), held=False),
}


def first(key: jax.Array) -> dict[str, jax.Array]:
    """Weights of either network."""
    shapes = {
        "in": (FEATURES, HIDDEN), "q": (HIDDEN, HIDDEN), "k": (HIDDEN, HIDDEN),
        "v": (HIDDEN, HIDDEN), "up": (HIDDEN, HIDDEN), "out": (HIDDEN,),
    }  # fmt: skip
    keys = jax.random.split(key, len(shapes))
    draw = lambda key, shape: jax.random.normal(key, shape) / np.sqrt(shape[0])
    return {name: draw(k, s) for k, (name, s) in zip(keys, shapes.items(), strict=True)}


def score(activation: str, phi: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """One number an example (n, tokens, features)."""
    if activation != "attention":
        act = ACTIVATIONS[activation]
        return act(act(jnp.mean(x, 1) @ phi["in"]) @ phi["up"]) @ phi["out"]
    norm = lambda h: jax.nn.standardize(h, axis=-1)
    h = norm(x @ phi["in"])
    weights = jax.nn.softmax((h @ phi["q"]) @ jnp.swapaxes(h @ phi["k"], 1, 2) / HIDDEN**0.5)
    h = norm(h + weights @ (h @ phi["v"]))
    return jnp.mean(h + jax.nn.gelu(h @ phi["up"]), 1) @ phi["out"]


def problem(case: Case, seed: int, narrow: bool) -> mc.Problem:
    """theta is one weight an example."""
    keys = jax.random.split(jax.random.key(seed), 4)
    x = jax.random.normal(keys[0], (2, EXAMPLES, TOKENS, FEATURES))
    clean = jnp.sin(2 * jnp.mean(x, 2).sum(-1))
    wrong = jnp.arange(EXAMPLES) < EXAMPLES // 3
    y = clean[0] + wrong * jax.random.normal(keys[1], (EXAMPLES,))
    phi = first(keys[2])

    def errors(phi: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        if narrow:
            phi, x = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (phi, x))
        return (score(case.activation, phi, x).astype(jnp.float32) - y) ** 2

    return mc.Problem(
        lambda theta, z: phi,
        lambda phi, theta, z: jnp.mean(theta * errors(phi, x[0], y)),
        lambda phi, theta, z: jnp.mean(errors(phi, x[1], clean[1])),
    )


def pictures(seed: int) -> mc.Problem:
    """LeNet-5 with ReLU and max-pooling, on classes of smooth pictures with noise on them."""
    net, keys = lenet5(), jax.random.split(jax.random.key(seed), 4)
    coarse = jax.random.normal(keys[0], (10, 4, 4, 3))
    classes = jax.image.resize(coarse, (10, 32, 32, 3), "cubic")
    labels = jnp.arange(2 * IMAGES).reshape(2, IMAGES) % 10
    x = classes[labels] + jax.random.normal(keys[1], (2, IMAGES, 32, 32, 3))
    wrong = jnp.where(jnp.arange(IMAGES) < IMAGES // 3, labels[0] + 1, labels[0]) % 10
    phi = net.init(keys[2])

    def losses(phi: Any, x: jax.Array, labels: jax.Array) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(net.apply(phi, x), labels)

    return mc.Problem(
        lambda theta, z: phi,
        lambda phi, theta, z: jnp.mean(theta * losses(phi, x[0], wrong)),
        lambda phi, theta, z: jnp.mean(losses(phi, x[1], labels[1])),
    )


def million() -> dict[str, float]:
    """Bytes for 1,000 steps of a transformer of a million weights."""
    net = transformer(SYMBOLS, LENGTH, width=128, depth=5, heads=4)
    phi, x = net.init(jax.random.key(0)), jnp.zeros((SEQUENCES, LENGTH + 1), int)

    def losses(phi: Any, x: jax.Array) -> jax.Array:
        logits = jax.vmap(lambda x: net.apply(phi, x))(x[:, :-1])
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, x[:, 1:]), 1)

    learned = mc.Problem(
        lambda theta, z: z[0],
        lambda phi, theta, z: jnp.mean(theta * losses(phi, z[1])),
        lambda phi, theta, z: jnp.mean(losses(phi, z[1])),
    )
    solver, theta = mc.descend(optax.adam(1e-3), 1000), jnp.ones(SEQUENCES)
    found = {"weights": float(sum(leaf.size for leaf in jax.tree.leaves(phi)))}
    rules = {"contrast": mc.Trajectory(keep="sqrt"), "unrolled": mc.Unrolled(remat=True)}
    for name, rule in rules.items():
        run = jax.jit(mc.meta_gradient(learned, solver, rule, by_z=False))
        memory: Any = run.lower(theta, (phi, x)).compile().memory_analysis()
        found[name] = memory.temp_size_in_bytes
    return found | {"memory": found["contrast"] / found["unrolled"]}


def measure(case: Case, seed: int) -> dict[str, float]:
    """One case."""
    unheld = mock.patch("metacontrast._secant.held", lambda f, at: f)
    with nullcontext() if case.held else unheld:
        return _measure(case, seed)


def _measure(case: Case, seed: int) -> dict[str, float]:
    # Runs that are not chaotic: with 3e-3, or a smaller eps_root, adjoints of some of these grow by
    # a million, and even exact products of float32 give another gradient than `Unrolled` does.
    optimizer = optax.adam(1e-3, eps_root=1e-6)
    is_net = case.activation == "LeNet-5"
    learned = pictures(seed) if is_net else problem(case, seed, case.narrow)
    solver, theta = mc.descend(optimizer, case.steps), jnp.ones(IMAGES if is_net else EXAMPLES)
    programs = {
        "plain": jax.jit(lambda theta: mc.solve_inner(learned, solver, theta, None).phi),
        "contrast": jax.jit(mc.meta_gradient(learned, solver, case.rule, by_z=False)),
        "unrolled": jax.jit(mc.meta_gradient(learned, solver, mc.Unrolled(remat=True), by_z=False)),
    }
    compiled = {
        name: run.lower(theta, *([None] * (name != "plain"))).compile()
        for name, run in programs.items()
    }
    calls = {
        name: (lambda run=run, more=(None,) * (name != "plain"): run(theta, *more))
        for name, run in compiled.items()
    }
    times: dict[str, list[float]] = {"plain": [], "contrast": []}
    jax.block_until_ready(calls["contrast"]())
    for _ in range(2 if is_net else TURNS):
        for name, each in times.items():
            began = time.process_time()
            jax.block_until_ready(calls[name]())
            each.append(time.process_time() - began)
    found, exact = calls["contrast"](), calls["unrolled"]()
    a, b = (np.asarray(ravel_pytree(m.by_theta)[0], np.float64) for m in (found, exact))
    sizes: dict[str, Any] = {name: run.memory_analysis() for name, run in compiled.items()}
    ratios = [c / p for p, c in zip(times["plain"], times["contrast"], strict=True)]
    return {
        "error": float(np.linalg.norm(a - b) / np.linalg.norm(b)),
        "expected": float(found.aux.get("error", 0.0)),
        "flagged": float(found.aux["flags"].inexact),
        "h": float(found.aux.get("h", 0.0)),
        "growth": float(found.aux["growth"]),
        "cosine": float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)),
        "time": statistics.median(ratios),
        "memory": sizes["contrast"].temp_size_in_bytes / sizes["unrolled"].temp_size_in_bytes,
    }


def table(rows: dict[str, list[dict[str, float]]]) -> str:
    """A line a case: the worst of all seeds, and the median of times and memory."""
    head = f"{'':28}{'error':>9}{'expected':>10}{'cosine':>9}{'flagged':>9}{'time':>6}{'memory':>8}"
    lines = [head]
    for name, found in rows.items():
        of = lambda key, found=found: [one[key] for one in found]
        lines.append(
            f"{name:28}{max(of('error')):9.1e}{max(of('expected')):10.1e}{min(of('cosine')):9.5f}"
            f"{sum(of('flagged')):6.0f}/{len(found)}{statistics.median(of('time')):7.1f}"
            f"{statistics.median(of('memory')):8.2f}"
        )
    return "\n".join(lines)


def main() -> None:
    """Print a line a case."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a twentieth of the steps")
    parser.add_argument("--result", type=Path, help="write all figures there")
    options = parser.parse_args()
    rows: dict[str, list[dict[str, float]]] = {}
    for name, case in CASES.items():
        steps = case.steps // 20 if options.quick else case.steps
        rows[name] = [measure(case._replace(steps=steps), seed) for seed in range(options.seeds)]
        print(table({name: rows[name]}), flush=True)
    print(table(rows))
    large = million()
    print(f"transformer of {large['weights']:.0f} weights: memory {large['memory']:.3f}")
    seeds = list(range(options.seeds))
    command = "python -m benchmarks.trajectory"
    keep(options.result, command, seeds=seeds, cases=rows, transformer=large)


if __name__ == "__main__":
    main()
