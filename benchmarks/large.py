"""Memory of large learners, in units of phi; and unrolling where it still fits.

    python benchmarks/large.py [--out FOLDER] [--weights 1e7] [--steps 3]

1. What the compiler sets aside for one meta-step of tasks started anew (a wide tanh network, SGD
   with momentum, omega meta-learned), from 1e6 to 1e8 weights: one task, 16 one at a time, 16 at
   once. Compiled only.
2. `--steps` warm meta-steps (F2SA, Adam) of the `reweight` experiment with a transformer of about
   `--weights` weights: what the compiler sets aside, the process's peak, and the time.
3. The weights of sources for a convex learner, by the contrast, unrolled, and by T1-T2 and CG:
   error, time and memory at several numbers of inner steps.

About four minutes on one idle core and 1 GiB, with 1e7 weights. Prints tables, writes large.json.
"""

import argparse
import inspect
import json
import resource
import time
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

import metacontrast as mc
from metacontrast.accuracy import compare
from metacontrast.experiments import _reweight_problem as reweight
from metacontrast.nets import Net, mlp
from metacontrast.tasks import texts
from metacontrast.train._meta_step import State, owned, start, stepper
from metacontrast.train._warm_train import _stepper

SOURCES = 7


def size(tree):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def chunk_of(advance):
    """The compiled part of the loop."""
    return inspect.getclosurevars(advance).nonlocals["chunk"]


def held(program, *args):
    """Bytes that the compiled program holds at once."""
    sizes = program.lower(*args).compile().memory_analysis()
    both = sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    return both + sizes.temp_size_in_bytes


# 1. Tasks that start anew


def sines(key):
    x = jax.random.normal(key, (16, 16))
    data = mc.Data(x, x[:, :1])
    return mc.Task(data, data)


def anew(weights, scheme, tasks, at_a_time):
    """Phis that a meta-step holds."""
    net = mlp(16, int(weights**0.5), 2, 1)
    error = lambda phi, data: jnp.mean((jax.vmap(net.apply, (None, 0))(phi, data.x) - data.y) ** 2)
    problem = mc.Problem(
        init=lambda theta, task: theta,
        inner=lambda phi, theta, task: error(phi, task.train) + mc.attraction(phi, theta, -2.0),
        outer=lambda phi, theta, task: error(phi, task.test),
    )
    outer, solve = optax.sgd(1e-2), mc.descend(optax.sgd(1e-3, 0.9), 10)
    rule = mc.Contrastive(0.1, scheme)
    advance = stepper(problem, solve, rule, sines, outer, tasks, 0, None, at_a_time)
    theta = jax.eval_shape(net.init, jax.random.key(0))  # nothing is allocated
    state = jax.eval_shape(lambda theta: start(theta, outer, False), theta)
    return held(chunk_of(advance), state, 0, 1) / size(theta)


# 2. One long task


def warm_run(weights, steps):
    """The reweight experiment's meta-steps with a larger transformer, and what they hold."""
    width = 64 * max(1, round((weights / 3 / 12) ** 0.5 / 64))
    # Few tokens, so that it is the weights that count.
    few = dict(length=32, batch=1, trusted=2, inner_steps=2, chars=20_000)
    settings = reweight.Settings(width=width, depth=3, heads=width // 64, **few)
    made, net = texts(0, settings.chars), reweight.network(settings)
    first = jax.eval_shape(net.init, jax.random.key(0))
    problem = reweight.problem(net, None, settings)
    problem = replace(problem, init=lambda theta, task: net.init(jax.random.key(0)))
    solve, outer = mc.descend(optax.adam(1e-3), settings.inner_steps), optax.adam(0.05)
    loop = mc.warm(problem, solve, mc.Contrastive(settings.beta))
    draw = reweight.drawer(made, settings)
    chunk = chunk_of(_stepper(loop, draw, outer, 0, None))
    theta, key = jnp.zeros(SOURCES), jax.random.key(0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    phases = jax.block_until_ready(jax.jit(loop.init)(theta, draw(key), key))
    state = State(theta, (owned(outer.init(theta)), phases))
    compiled = chunk.lower(state, 0, 1).compile()
    sizes = compiled.memory_analysis()
    took = []
    for t in range(steps):
        began = time.perf_counter()
        state, metrics = compiled(state, t)
        jax.block_until_ready(metrics)
        took.append(time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    tokens = settings.inner_steps * settings.length
    tokens *= 2 * SOURCES * settings.batch + settings.trusted
    parameters = sum(leaf.size for leaf in jax.tree.leaves(first))
    return {
        "parameters": parameters,
        "phi_MB": size(first) / 1e6,
        "state_in_phis": sizes.argument_size_in_bytes / size(first),
        "compiled_in_phis": (sizes.argument_size_in_bytes + sizes.temp_size_in_bytes) / size(first),
        "peak_process_in_phis": (peak - before) / size(first),
        "seconds": float(np.median(took)),
        # 6 per weight and token in a phase; 2 in the contrast, which goes forward only.
        "GFLOPs": 6 * parameters * tokens / 1e9 / float(np.median(took)),
    }


# 3. Where unrolling fits


def tiny(steps):
    """Errors against the exact meta-gradient of a converged bigram model, and what they take."""
    with jax.enable_x64(True):
        settings = reweight.Settings(length=32, batch=16, trusted=32, decay=0.01, chars=20_000)
        net = Net(lambda key: jnp.zeros((28, 28)), lambda phi, x: phi[x])
        learned = reweight.problem(net, jnp.zeros((28, 28)), settings)
        learned = replace(learned, sample=None)
        task = reweight.drawer(texts(0, settings.chars), settings)(jax.random.key(0))
        theta = jnp.zeros(SOURCES)
        rule = mc.Implicit("cg", 300)
        learn = mc.lbfgs(1e-10, 500)
        exact = jax.jit(lambda *task: rule.value_and_grad(learned, learn, *task)[1])(theta, task)
        rules = {
            "contrast, symmetric": mc.Contrastive(0.1, "symmetric"),
            "contrast, forward": mc.Contrastive(0.1),
            "unrolled": mc.Unrolled(),
            "implicit, CG 20": mc.Implicit("cg", 20),
            "T1-T2": mc.Implicit("identity"),
        }
        solve = mc.descend(optax.sgd(2.0, 0.9), steps)
        return compare(rules, learned, solve, theta, task, exact)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--weights", type=float, default=1e7)
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    # The long task first: the process's peak only ever grows.
    found = {"warm": warm_run(options.weights, options.steps)}
    print(json.dumps(found["warm"], indent=2), flush=True)
    found["anew"] = [
        {"weights": n, "scheme": s, "tasks": k, "at_a_time": a, "phis": anew(n, s, k, a)}
        for n in (10**6, 10**8)
        for s in ("forward", "symmetric")
        for k, a in ((1, 1), (16, 1), (16, 16))
    ]
    show("phis held in a meta-step", found["anew"])
    found["tiny"] = [{"steps": n} | record._asdict() for n in (30, 300) for record in tiny(n)]
    show("meta-gradient of the sources' weights, bigram model", found["tiny"])
    (options.out / "large.json").write_text(json.dumps(found, indent=2) + "\n")


def show(title, rows):
    sheet = Table(title=title, title_justify="left")
    for name in rows[0]:
        sheet.add_column(name, justify="right")
    for row in rows:
        sheet.add_row(*(f"{x:.4g}" if isinstance(x, float) else str(x) for x in row.values()))
    Console(width=110).print(sheet)


if __name__ == "__main__":
    main()
