"""A small meta-training run of everything that has a state, to be interrupted and compared.

As a script: `python toy_run.py OUT [COORDINATOR PROCESS]`, starts or resumes it in the folder OUT,
as one process or as one of two.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import metacontrast as mc
from metacontrast.train import meta_train, use_devices


class Spring(NamedTuple):
    """A task: pulls phi to `centre`; with a steep one, learning diverges."""

    centre: jax.Array
    steepness: jax.Array


STEEP = 1e200  # the loss overflows
STEEPISH = 30.0  # one step of 1/4 multiplies the distance by about 15: finite, and far away


def draw(key):
    """A spring with a random centre."""
    return Spring(jax.random.normal(key), jnp.ones(()))


def draw_some_steep(key, steep=STEEP):
    """The same, but one in four is so steep that learning diverges."""
    one, other = jax.random.split(key)
    return Spring(jax.random.normal(one), jnp.where(jax.random.uniform(other) < 0.25, steep, 1.0))


# One step of size 1/4 finds the minimum where the steepness is 1: phi = (centre + theta) / 2. The
# meta-gradient is then d (phi - 1)^2 / d theta = phi - 1, and unrolling that one step is exact.
problem = mc.Problem(
    init=lambda theta, task: theta,
    inner=lambda phi, theta, task: jnp.sum(
        task.steepness * (phi - task.centre) ** 2 + (phi - theta) ** 2
    ),
    outer=lambda phi, theta, task: jnp.sum((phi - 1.0) ** 2),
)
solve = mc.descend(optax.sgd(0.25), steps=1)


def jittered(task, key):
    """A view of the task with noise, so that the learner's own key matters."""
    return task._replace(centre=task.centre + jax.random.uniform(key, minval=-0.1, maxval=0.1))


noisy = replace(problem, sample=jittered)

# What a checkpoint must hold: moments, counts, a key that changes; a state, a theta that is empty.
OPTIMIZER = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.add_noise(0.1, 0.5, 5),
    optax.adam(optax.cosine_decay_schedule(0.3, 100)),
)
THETA = {"spring": 0.3, "nothing": np.zeros((0, 2))}
nested = mc.Problem(
    init=lambda theta, task: theta["spring"],
    inner=lambda phi, theta, task: problem.inner(phi, theta["spring"], task),
    outer=problem.outer,
    sample=jittered,
)


def score(theta):
    """A loss that is lowest on the way, so that the best theta is not the last one."""
    return {"loss": (theta["spring"] - 2.0) ** 2, "twice": 2 * theta["spring"]}


def toy_run(out, **changes):
    """Nine blocks of 10 meta-steps in dispatches of 5, and a last one of 5."""
    settings = dict(
        problem=nested, solve=solve, estimator=mc.FirstOrder(), draw=draw_some_steep, theta=THETA,
        optimizer=OPTIMIZER, steps=95, tasks=8, seed=3, out=out, every=10, chunk=5, polyak=17,
        valid=score, progress=False, config={"method": "toy", "rates": (0.1, 0.2)},
    )  # fmt: skip
    return meta_train(**(settings | changes))


def lines(out):
    """The metrics file without the only numbers that differ from run to run."""
    text = Path(out, "metrics.jsonl").read_text()
    return [{**json.loads(line), "seconds": None} for line in text.splitlines()]


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    out, *which = sys.argv[1:]
    if which:
        at = dict(coordinator=which[0], processes=2, process=int(which[1]))
        use_devices(distributed=True, **at)
    toy_run(out, resume=True)
