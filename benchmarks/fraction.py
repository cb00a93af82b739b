"""How much of the machine's arithmetic the inner loop on sines reaches, and where the rest goes.

    python benchmarks/fraction.py [--out fraction.json]

The floating-point operations a second of an inner step's matrix products, over those of one large
matrix product; all timed in turn in the same process, with as many threads. Three processes: on one
core; on all cores as JAX comes; and on all cores with a device (XLA's virtual ones) for each.
Prints a table of medians with quartiles, and writes them as JSON. About two minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # for a file that is run by its path
TASKS, POINTS, WIDTH, STEPS, LARGE, REPEATS = 25, 10, 40, 100, 1024, 15
PROCESSES = {
    "one core": "--xla_cpu_multi_thread_eigen=false",
    "all cores, one device": "",
    "all cores, a device each": "--xla_force_host_platform_device_count={cores}",
}
# Of the products of an inner step alone, for each example: the network's answer, and its gradients
# by the weights and by what the layers but the first receive.
FLOPS = 2 * (2 * (WIDTH * WIDTH + 2 * WIDTH) + WIDTH * WIDTH + WIDTH)
HIDDEN = 3 * 2 * WIDTH * WIDTH  # of the layer in the middle

Timed = tuple[Callable[[], Any], float]  # and the operations of one call
Rows = dict[str, list[float]]


def main() -> None:
    """Print, and write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("fraction.json"))
    parser.add_argument("--process", choices=PROCESSES)
    options = parser.parse_args()
    if options.process:
        print(json.dumps(measure(options.process)))
        return
    results = {}
    for name in PROCESSES:
        results[name] = in_process(name)
        show(name, results[name])
    options.out.write_text(json.dumps(results, indent=2) + "\n")


def in_process(name: str) -> Rows:
    """The rows of one process, whose flags must be set before JAX is imported."""
    flags = PROCESSES[name].format(cores=len(os.sched_getaffinity(0)))
    command = [sys.executable, __file__, "--process", name]
    env = os.environ | {"XLA_FLAGS": flags}
    ended = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True)
    rows: Rows = json.loads(ended.stdout.splitlines()[-1])
    return rows


def show(name: str, rows: Rows) -> None:
    """Print a table."""
    print(f"\n{name:44} us a step (quartiles)      GFLOP/s  of the large product", flush=True)
    for row, (median, low, high, rate, fraction) in rows.items():
        speed = f"{rate:9.1f} {fraction:10.2f}" if rate else ""
        print(f"{row:44} {median:8.1f} ({low:.1f} to {high:.1f}) {speed:>25}", flush=True)


def measure(name: str) -> Rows:
    """Of each row: median and quartiles of the microseconds a step, GFLOP/s, fraction."""
    if name == "one core":
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    import numpy as np

    rows = {"one large product": large()} | loops(name)
    if name == "one core":
        rows |= parts()
    for call, _ in rows.values():
        call()
    seconds: dict[str, list[float]] = {row: [] for row in rows}
    for _ in range(REPEATS):
        for row, (call, _) in rows.items():
            began = time.perf_counter()
            call()
            seconds[row].append(time.perf_counter() - began)
    low, median, high = (
        {row: float(np.quantile(times, q)) for row, times in seconds.items()}
        for q in (0.25, 0.5, 0.75)
    )
    rate = {row: flops / median[row] / 1e9 for row, (_, flops) in rows.items()}
    best = rate["one large product"]
    steps = {row: 1 if row == "one large product" else STEPS for row in rows}
    micro = lambda times, row: 1e6 * times[row] / steps[row]
    return {
        row: [micro(median, row), micro(low, row), micro(high, row), rate[row], rate[row] / best]
        for row in rows
    }


def compiled(function: Callable[..., Any], *args: Any) -> Callable[[], Any]:
    """A call of the compiled function."""
    import jax

    call = jax.jit(function)
    return lambda: jax.block_until_ready(call(*args))


def large() -> Timed:
    """One large product of matrices."""
    import jax

    square = jax.random.normal(jax.random.key(0), (LARGE, LARGE))
    return compiled(lambda a: a @ a, square), 2.0 * LARGE**3


def loops(name: str) -> dict[str, Timed]:
    """The free phase of `cml-gd`: today's, and with its products as equinox writes them."""
    import jax
    import numpy as np
    import optax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    import metacontrast as mc
    from benchmarks._learners import NET, descent_on_sines, sine_problem, sine_theta
    from metacontrast.tasks import sine

    devices = jax.devices()
    n = -(-TASKS // len(devices)) * len(devices)
    along = NamedSharding(Mesh(np.array(devices), ("tasks",)), PartitionSpec("tasks"))
    tasks = jax.vmap(partial(sine, shots=POINTS))(jax.random.split(jax.random.key(5), n))
    tasks, theta = jax.device_put(tasks, along), sine_theta()

    def loop(apply: Any, solver: mc.Solver) -> Timed:
        problem = sine_problem(apply)
        one = lambda task: mc.solve_inner(problem, solver, theta, task).phi
        return compiled(jax.vmap(one), tasks), float(FLOPS * POINTS * n * STEPS)

    momentum, adam = descent_on_sines(STEPS), mc.descend(optax.adam(1e-2), STEPS)
    return {
        "inner loop, momentum": loop(NET.apply, momentum),
        "the same, products as `w @ x`": loop(by_equinox(), momentum),
        "inner loop, Adam": loop(NET.apply, adam),
        "the same, products as `w @ x` ": loop(by_equinox(), adam),
    }


def by_equinox() -> Any:
    """The network as equinox applies it."""
    import equinox as eqx
    import jax.numpy as jnp

    from metacontrast.nets import net

    return net(lambda key: eqx.nn.MLP(1, 1, WIDTH, 2, jnp.tanh, key=key)).apply


def parts() -> dict[str, Timed]:
    """What an inner step is made of, each by itself in a loop of as many steps and tasks."""
    import jax
    import jax.numpy as jnp
    import optax

    from benchmarks._learners import sine_theta
    from metacontrast.nets._product import product

    key = jax.random.key(0)
    x = jax.random.normal(key, (TASKS, POINTS, WIDTH))
    w = jax.random.normal(key, (TASKS, WIDTH, WIDTH)) / 6
    phi = jax.tree.map(lambda leaf: jnp.stack([leaf] * TASKS), sine_theta().omega)
    optimizer = optax.sgd(optax.cosine_decay_schedule(1e-3, STEPS, 0.01), 0.9, nesterov=True)

    def looped(step: Callable[[Any], Any], start: Any, flops: float = 0.0) -> Timed:
        run = lambda start: jax.lax.scan(lambda c, _: (step(c), None), start, length=STEPS)[0]
        return compiled(run, start), flops * STEPS

    def products(apply: Any, carry: Any) -> Any:
        """A layer's answer and both gradients, fed back; that they overflow costs no time."""
        w, x = carry
        mapped = lambda w, x: jax.vmap(apply, (None, 0))(w, x)
        y, back = jax.vmap(lambda w, x: jax.vjp(mapped, w, x))(w, x)
        return jax.vmap(lambda back, y: back(y))(back, y)

    def update(carry: Any) -> Any:
        phi, state = carry
        change, state = optimizer.update(phi, state, phi)
        return optax.apply_updates(phi, change), state

    hidden = float(HIDDEN * POINTS * TASKS)
    wide = (w[0] * 0.1, x.reshape(1, -1, WIDTH)[0] * 0.1)
    one = lambda carry: jax.tree.map(
        lambda leaf: leaf[0], products(product, jax.tree.map(lambda leaf: leaf[None], carry))
    )
    return {
        "part: an empty loop": looped(lambda c: c + 1, jnp.zeros(())),
        "part: hidden layer's three products": looped(partial(products, product), (w, x), hidden),
        "part: the same, as `w @ x`": looped(partial(products, jnp.matmul), (w, x), hidden),
        "part: the same, one task of 250 points": looped(one, wide, hidden),
        "part: both layers' tanh": looped(lambda c: tuple(map(jnp.tanh, c)), (x, x)),
        "part: momentum, on all weights": looped(update, (phi, optimizer.init(phi))),
    }


if __name__ == "__main__":
    main()
