"""Memory of large learners, in units of phi; and unrolling where it still fits.

    python benchmarks/large.py [--out FOLDER] [--weights 1e7] [--steps 3]

1. What the compiler sets aside for one meta-step of tasks started anew (a wide tanh network, SGD
   with momentum, omega meta-learned), from 1e6 to 1e8 weights: one task, 16 one at a time, 16 at
   once. Compiled only.
2. `--steps` warm meta-steps (F2SA, Adam) of the problem of `reweight` with a transformer of about
   `--weights` weights: what the compiler sets aside, the process's peak, and the time.
3. The weights of sources for a convex learner, by the contrast, unrolled, and by T1-T2 and CG:
   error, time and memory at several numbers of inner steps.

About four minutes on one idle core and 1 GiB, with 1e7 weights. Prints tables, writes large.json.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree
from rich.console import Console
from rich.table import Table

import metacontrast as mc
from metacontrast.accuracy import Record, compare
from metacontrast.nets import Net, mlp, transformer
from metacontrast.train._loop import first_snapshot
from metacontrast.train._meta_step import MetaStep, compile_dispatch

sys.path.insert(0, str(Path(__file__).parents[1]))  # for a file that is run by its path
from benchmarks import _reweighting as reweighting

Row = dict[str, Any]


def bytes_of(tree: PyTree) -> int:
    """Of all arrays."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def compiled_step(run: MetaStep, state: PyTree) -> Any:
    """A meta-step, as the loop compiles it."""
    dispatch: Any = compile_dispatch(run)
    return dispatch.lower(state, 0, 1).compile()


# 1. Tasks that start anew


def fresh_tasks(weights: int, scheme: Any, tasks: int, task_batch_size: int) -> float:
    """Phis that a meta-step holds at once."""
    net = mlp(16, int(weights**0.5), 2, 1)
    error = lambda phi, data: jnp.mean((jax.vmap(net.apply, (None, 0))(phi, data.x) - data.y) ** 2)
    problem = mc.Problem(
        init=lambda omega, task: omega,
        inner=lambda phi, omega, task: error(phi, task.train) + mc.Synapse(omega, -2.0).pull(phi),
        outer=lambda phi, omega, task: error(phi, task.test),
    )

    def sample_task(key: jax.Array) -> mc.Task:
        x = jax.random.normal(key, (16, 16))
        return mc.Task(mc.Data(x, x[:, :1]), mc.Data(x, x[:, :1]))

    solver, rule = mc.descend(optax.sgd(1e-3, 0.9), 10), mc.Contrastive(0.1, scheme)
    run = MetaStep(
        problem, solver, rule, sample_task, optax.sgd(1e-2), tasks, seed=0,
        task_batch_size=task_batch_size,
    )  # fmt: skip
    theta = jax.eval_shape(net.init, jax.random.key(0))  # nothing is allocated
    state = jax.eval_shape(lambda theta: first_snapshot(run, theta).state, theta)
    sizes = compiled_step(run, state).memory_analysis()
    both = sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    return (both + sizes.temp_size_in_bytes) / bytes_of(theta)


# 2. One long task


def warm_start(weights: float, steps: int) -> Row:
    """Meta-steps of phases that go on, with a transformer: what they hold, and their time."""
    width = 64 * max(1, round((weights / 3 / 12) ** 0.5 / 64))
    # Few tokens, so that it is the weights that count.
    sizes, inner_steps = reweighting.Sizes(batch=1, trusted=2), 2
    net = transformer(reweighting.SYMBOLS, sizes.length, width, 3, width // 64)
    phi = jax.eval_shape(net.init, jax.random.key(0))
    run = MetaStep(
        reweighting.problem(net, sizes),
        mc.descend(optax.adam(1e-3), inner_steps),
        mc.Contrastive(1.0),
        reweighting.task_sampler(sizes),
        optax.adam(0.05),
        tasks=1,
        seed=0,
        warm_start="phases",
    )
    before = peak()
    theta = jnp.zeros(reweighting.SOURCES)
    phases = jax.block_until_ready(jax.jit(run.first_phases)(theta))
    state = first_snapshot(run, theta).state._replace(phases=phases)
    compiled = compiled_step(run, state)
    memory, seconds = compiled.memory_analysis(), []
    for t in range(steps):
        began = time.perf_counter()
        state, metrics = compiled(state, t)
        jax.block_until_ready(metrics)
        seconds.append(time.perf_counter() - began)
    of_step = 2 * reweighting.SOURCES * sizes.batch + sizes.trusted
    tokens = inner_steps * sizes.length * of_step
    parameters, size = sum(leaf.size for leaf in jax.tree.leaves(phi)), bytes_of(phi)
    return {
        "parameters": parameters,
        "phi_MB": size / 1e6,
        "state_in_phis": memory.argument_size_in_bytes / size,
        "compiled_in_phis": (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / size,
        "peak_process_in_phis": (peak() - before) / size,
        "seconds": float(np.median(seconds)),
        # 6 per weight and token in a phase; 2 in the contrast, which goes forward only.
        "GFLOPs": 6 * parameters * tokens / 1e9 / float(np.median(seconds)),
    }


def peak() -> int:
    """The largest resident set of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# 3. Where unrolling fits


def convex_learner(steps: int) -> list[Record]:
    """Errors against the exact meta-gradient of a converged bigram model, and what they take."""
    with jax.enable_x64(True):
        sizes = reweighting.Sizes(batch=16, trusted=32)
        shape = (reweighting.SYMBOLS, reweighting.SYMBOLS)
        net = Net(lambda key: jnp.zeros(shape), lambda phi, x: phi[x])
        problem = replace(reweighting.problem(net, sizes, decay=0.01), sample=None)
        task = reweighting.task_sampler(sizes)(jax.random.key(0))
        theta = jnp.zeros(reweighting.SOURCES)
        converged = mc.lbfgs(1e-10, 500)
        exact = mc.meta_gradient(problem, converged, mc.Implicit("cg", 300))(theta, task).by_theta
        estimators: dict[str, mc.Estimator] = {
            "contrast, symmetric": mc.Contrastive(0.1, "symmetric"),
            "contrast, forward": mc.Contrastive(0.1),
            "unrolled": mc.Unrolled(),
            "implicit, CG 20": mc.Implicit("cg", 20),
            "T1-T2": mc.Implicit("identity"),
        }
        solver = mc.descend(optax.sgd(2.0, 0.9), steps)
        return compare(estimators, problem, solver, theta, task, exact)


def main() -> None:
    """All three parts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--weights", type=float, default=1e7)
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    # The long task first: the process's peak only ever grows.
    result: dict[str, Any] = {"warm": warm_start(options.weights, options.steps)}
    print(json.dumps(result["warm"], indent=2), flush=True)
    result["anew"] = [
        {"weights": n, "scheme": s, "tasks": k, "batch": b, "phis": fresh_tasks(n, s, k, b)}
        for n in (10**6, 10**8)
        for s in ("forward", "symmetric")
        for k, b in ((1, 1), (16, 1), (16, 16))
    ]
    show("phis held in a meta-step", result["anew"])
    result["convex"] = [
        {"steps": n} | record._asdict() for n in (30, 300) for record in convex_learner(n)
    ]
    show("meta-gradient of the sources' weights, bigram model", result["convex"])
    (options.out / "large.json").write_text(json.dumps(result, indent=2) + "\n")


def show(title: str, rows: list[Row]) -> None:
    """Print a table."""
    sheet = Table(title=title, title_justify="left")
    for name in rows[0]:
        sheet.add_column(name, justify="right")
    for row in rows:
        sheet.add_row(*(f"{x:.4g}" if isinstance(x, float) else str(x) for x in row.values()))
    Console(width=110).print(sheet)


if __name__ == "__main__":
    main()
