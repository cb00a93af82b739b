"""Gradients of the steps that were taken, by contrasts: how exact, how long, how much memory.

    python -m benchmarks.trajectory [--seeds N] [--quick] [--result FILE]

Data weights of small networks through Adam, a third of the labels wrong, in float32: relative
error and cosine with `Unrolled` of the same run, its time beside plain training (interleaved), and
what the compiler sets aside beside `Unrolled(remat=True)`. About ten minutes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

import metacontrast as mc
from metacontrast.train import provenance

EXAMPLES, FEATURES, HIDDEN, TOKENS, TURNS = 256, 8, 32, 4, 5


class Case(NamedTuple):
    """A network, how long it learns, and by which product."""

    activation: str
    steps: int
    rule: mc.Trajectory
    narrow: bool = False


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
    "ReLU, h = 0.1": Case("ReLU", 300, mc.Trajectory(h=0.1)),
    "ReLU, exact": Case("ReLU", 300, mc.Trajectory("exact")),
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


def measure(case: Case, seed: int) -> dict[str, float]:
    """One case."""
    # Runs that are not chaotic: with 3e-3, or a smaller eps_root, adjoints of some of these grow by
    # a million, and even exact products of float32 give another gradient than `Unrolled` does.
    optimizer = optax.adam(1e-3, eps_root=1e-6)
    learned, solver = problem(case, seed, case.narrow), mc.descend(optimizer, case.steps)
    theta = jnp.ones(EXAMPLES)
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
    for _ in range(TURNS):
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
    if options.result:
        facts = {"command": "python -m benchmarks.trajectory", "seeds": list(range(options.seeds))}
        text = json.dumps(facts | {"cases": rows} | provenance(), indent=1)
        options.result.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
