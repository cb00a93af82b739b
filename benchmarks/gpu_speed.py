"""How fast `cml-syn` meta-learns Omniglot's 20-way 1-shot tasks: by tasks at once, and precision.

    python benchmarks/gpu_speed.py [--out FILE] [--quick] [--shot 5]

Prints milliseconds a meta-step and an inner step (free and nudged phases alike), and the arithmetic
of the convolutions' products in TFLOP/s, forwards and backwards.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import metacontrast as mc
from metacontrast._precision import Precision
from metacontrast.tasks import episodes, omniglot

sys.path.append(str(Path(__file__).parents[1] / "experiments"))
import omniglot as experiment
from _few_shot_learners import learner
from frame import first_key

REPEATS, META_STEPS = 3, 3
SIDES = (14, 7, 4, 2)  # of the images after each of the four halvings
HEADER = (
    "tasks  precision      nudged phases  ms a meta-step  ms an inner step  TFLOP/s  "
    "compilation (s)"
)


def work(s: Any) -> float:
    """Operations of the convolutions' products in an inner step: once forwards, twice backwards."""
    widths = [1, *s.filters]
    sums = sum(9 * n * m * a * a for n, m, a in zip(widths, widths[1:], SIDES, strict=False))
    return 3 * 2 * sums * s.way * s.shot * s.tasks


def compiled(s: Any, images: Any) -> Callable[[jax.Array], object]:
    """Some meta-steps, as a function of a key."""
    one = learner(s, channels=1)
    theta = one.first_theta(first_key(0))
    sample_task = episodes(images, s.way, s.shot, s.queries, rotations=True, distort=s.distort)
    loss = mc.meta_loss(one.problem(), one.solver(), one.estimator())

    def step(theta: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        tasks = jax.vmap(sample_task)(jax.random.split(key, s.tasks))
        value, grads = jax.vmap(jax.value_and_grad(loss), (None, 0))(theta, tasks)
        return jax.tree.map(lambda p, g: p - 1e-4 * jnp.mean(g, 0), theta, grads), jnp.mean(value)

    run = jax.jit(lambda theta, key: jax.lax.scan(step, theta, jax.random.split(key, META_STEPS)))
    program = run.lower(theta, jax.random.key(0)).compile()
    return lambda key: jax.block_until_ready(program(theta, key))


def measure(s: Any, images: Any) -> dict[str, Any]:
    """The median of a few repetitions."""
    began = time.perf_counter()
    run = compiled(s, images)
    compilation = time.perf_counter() - began
    run(jax.random.key(0))
    times = []
    for i in range(REPEATS):
        began = time.perf_counter()
        run(jax.random.key(1 + i))
        times.append((time.perf_counter() - began) / META_STEPS)
    meta, inner = float(np.median(times)), s.inner_steps + 2 * s.nudged_steps
    return {
        "tasks": s.tasks, "precision": s.precision, "filters": s.filters[0],
        "side_by_side": s.side_by_side,
        "ms_meta_step": 1e3 * meta, "ms_inner_step": 1e3 * meta / inner,
        "tflops": work(s) * inner / meta / 1e12, "compilation": compilation,
    }  # fmt: skip


def line(r: dict[str, Any]) -> str:
    """A row of the table."""
    # The rows that are kept are from before there was a choice.
    phases = "side by side" if r.get("side_by_side") else "in turn"
    return (
        f"{r['tasks']:5}  {r['precision']:13}  {phases:13}  {r['ms_meta_step']:14.2f}  "
        f"{r['ms_inner_step']:16.3f}  {r['tflops']:7.2f}  {r['compilation']:15.1f}"
    )


def main() -> None:
    """Print a line a setting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--shot", type=int, default=1)
    parser.add_argument("--tasks", type=int, nargs="+", default=[16, 64])
    choices = ["highest", "tensorfloat32", "bfloat16"]
    parser.add_argument("--precision", nargs="+", choices=choices, default=choices[1:])
    phases = ["in-turn", "side-by-side"]
    parser.add_argument("--phases", nargs="+", choices=phases, default=phases)
    parser.add_argument("--quick", action="store_true", help="one small setting")
    args = parser.parse_args()
    device = f"{jax.devices()[0].device_kind}, jax {jax.__version__}"
    print(f"{jax.default_backend()}: {device}\n{HEADER}", flush=True)
    images, rows = omniglot("train"), []
    base = replace(experiment.for_kind("cml-syn", 20, args.shot), filters=(64,) * 4)
    if args.quick:
        base = replace(base, filters=(8,) * 4, inner_steps=2, nudged_steps=1)
    precisions: list[Precision] = ["highest"] if args.quick else args.precision
    for tasks in [2] if args.quick else args.tasks:
        for precision, phases in product(precisions, args.phases):
            together = phases == "side-by-side"
            s = replace(base, tasks=tasks, precision=precision, side_by_side=together)
            rows.append(measure(s, images))
            print(line(rows[-1]), flush=True)
            if args.out is not None:
                args.out.write_text(json.dumps({"device": device, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
