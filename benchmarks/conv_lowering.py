"""How long a training step of Conv4 takes by the lowering of its convolutions, inside a scan.

    python benchmarks/conv_lowering.py [--out FILE] [--quick]

Prints, for each setting, milliseconds a step (the fastest of a few) and the ratio between the two;
the rows go to FILE. "each" is a kernel per task, as where all weights are fast; "one" is the same
for all tasks, as where features are slow.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from metacontrast.nets import conv4
from metacontrast.nets._conv import Lowering

STEPS, REPEATS = 10, 3
# halved by a stride, filters, tasks, images of each, kernels
SETTINGS = (
    (True, 32, 1, 80, "one"),
    (True, 64, 1, 80, "one"),
    (True, 64, 4, 20, "one"),
    (True, 64, 4, 20, "each"),
    (True, 64, 16, 20, "one"),
    (True, 64, 16, 20, "each"),
    (False, 64, 1, 20, "one"),
)
HEADER = "halved by  filters  tasks x images  kernels  patches (ms)  lax (ms)  lax / patches"


def compiled(
    lowering: Lowering, strided: bool, filters: int, tasks: int, images: int, kernels: str
) -> Callable[[], object]:
    """Some steps of gradient descent, side by side on `tasks` batches of `images`."""
    net = conv4(filters, strided=strided, lowering=lowering)
    x = jax.random.uniform(jax.random.key(1), (tasks, images, 28, 28, 1))
    phi = net.init(jax.random.key(0))
    loss = lambda phi, x: jnp.mean(net.apply(phi, x) ** 2)
    axis = 0 if kernels == "each" else None
    if axis == 0:
        phi = jax.tree.map(lambda p: jnp.broadcast_to(p, (tasks, *p.shape)), phi)

    def step(phi: Any, _: None) -> tuple[Any, None]:
        grads = jax.vmap(jax.grad(loss), (axis, 0))(phi, x)
        mean = lambda g: g if axis == 0 else jnp.mean(g, 0)
        return jax.tree.map(lambda p, g: p - 1e-3 * mean(g), phi, grads), None

    run = jax.jit(partial(jax.lax.scan, step, length=STEPS)).lower(phi).compile()
    return lambda: jax.block_until_ready(run(phi))


def seconds(run: Callable[[], object]) -> float:
    """Of one step."""
    run()
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return min(times) / STEPS


def row(*setting: Any) -> dict[str, Any]:
    """Both lowerings of a setting."""
    patches, lax = (1e3 * seconds(compiled(form, *setting)) for form in ("patches", "lax"))
    names = ("strided", "filters", "tasks", "images", "kernels")
    return dict(zip(names, setting, strict=True)) | {"patches_ms": patches, "lax_ms": lax}


def line(r: dict[str, Any]) -> str:
    """A row of the table."""
    size = f"{r['tasks']} x {r['images']}"
    return (
        f"{'stride' if r['strided'] else 'pooling':9}  {r['filters']:7}  {size:>14}  "
        f"{r['kernels']:>7}  {r['patches_ms']:12.2f}  {r['lax_ms']:8.2f}  "
        f"{r['lax_ms'] / r['patches_ms']:13.1f}"
    )


def main() -> None:
    """Print a line a setting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true", help="one small setting")
    args = parser.parse_args()
    device = f"{jax.devices()[0].device_kind}, jax {jax.__version__}"
    print(f"{jax.default_backend()}: {device}\n{HEADER}", flush=True)
    rows = []
    for setting in ((True, 8, 2, 4, "each"),) if args.quick else SETTINGS:
        rows.append(row(*setting))
        print(line(rows[-1]), flush=True)
        if args.out is not None:
            args.out.write_text(json.dumps({"device": device, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
