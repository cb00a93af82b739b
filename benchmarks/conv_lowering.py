"""How long a training step of Conv4 takes by the lowering of its convolutions, inside a scan.

    python benchmarks/conv_lowering.py

Prints, for each setting, milliseconds a step (the fastest of a few) and the ratio between the two.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from metacontrast.nets import conv4
from metacontrast.nets._conv import Lowering

STEPS, REPEATS = 3, 3


def seconds(lowering: Lowering, strided: bool, filters: int, tasks: int, images: int) -> float:
    """Of one step of gradient descent, side by side on `tasks` batches of `images`."""
    net = conv4(filters, strided=strided, lowering=lowering)
    x = jax.random.uniform(jax.random.key(1), (tasks, images, 28, 28, 1))
    loss = lambda phi, x: jnp.mean(net.apply(phi, x) ** 2)

    def step(phi: Any, _: None) -> tuple[Any, None]:
        grads = jax.vmap(jax.grad(loss), (None, 0))(phi, x)
        return jax.tree.map(lambda p, g: p - 1e-3 * jnp.mean(g, 0), phi, grads), None

    run = jax.jit(partial(jax.lax.scan, step, length=STEPS))
    phi = net.init(jax.random.key(0))
    jax.block_until_ready(run(phi))
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        jax.block_until_ready(run(phi))
        times.append(time.perf_counter() - began)
    return min(times) / STEPS


def main() -> None:
    """Print a line a setting."""
    print(f"{jax.default_backend()}: {jax.devices()[0].device_kind}, jax {jax.__version__}")
    print("halved by  filters  tasks x images  patches (ms)  lax (ms)  lax / patches")
    for strided, filters, tasks, images in (
        (True, 32, 1, 80),
        (True, 64, 1, 80),
        (True, 64, 4, 20),
        (False, 64, 1, 20),
    ):
        patches = 1e3 * seconds("patches", strided, filters, tasks, images)
        lax = 1e3 * seconds("lax", strided, filters, tasks, images)
        print(
            f"{'stride' if strided else 'pooling':9}  {filters:7}  {f'{tasks} x {images}':>14}  "
            f"{patches:12.1f}  {lax:8.1f}  {lax / patches:13.1f}"
        )


if __name__ == "__main__":
    main()
