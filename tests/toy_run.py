"""A small meta-training run of everything that has a state, to be interrupted and compared.

As a script: `python toy_run.py OUT [COORDINATOR PROCESS [dies | waits]]`, starts or resumes it in
the folder OUT, as one process, or some steps of it as one of two, which may kill itself or take its
time.
"""

import json
import os
import signal
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import metacontrast as mc
from metacontrast.train import _folder, meta_train, use_devices


class Spring(NamedTuple):
    """A task: pulls phi to `centre`; with a steep one, learning diverges."""

    centre: jax.Array
    steepness: jax.Array


STEEP = 1e200  # the loss overflows
STEEPISH = 30.0  # one step of 1/4 multiplies the distance by about 15: finite, and far away


def spring(key):
    """A spring with a random centre."""
    return Spring(jax.random.normal(key), jnp.ones(()))


def spring_or_steep(key):
    """The same, but one in eight overflows, and one in eight diverges and stays finite."""
    one, other = jax.random.split(key)
    u = jax.random.uniform(other)
    steepness = jnp.where(u < 0.125, STEEP, jnp.where(u < 0.25, STEEPISH, 1.0))
    return Spring(jax.random.normal(one), steepness)


# One step of size 1/4 finds the minimum where the steepness is 1: phi = (centre + theta) / 2. The
# meta-gradient is then d (phi - 1)^2 / d theta = phi - 1, and unrolling that one step is exact.
problem = mc.Problem(
    init=lambda theta, task: theta,
    inner=lambda phi, theta, task: jnp.sum(
        task.steepness * (phi - task.centre) ** 2 + (phi - theta) ** 2
    ),
    outer=lambda phi, theta, task: jnp.sum((phi - 1.0) ** 2),
)
solver = mc.descend(optax.sgd(0.25), steps=1)


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
THETA = {"spring": np.array([0.3, -0.2]), "nothing": np.zeros((0, 2))}
nested = mc.Problem(
    init=lambda theta, task: theta["spring"],
    inner=lambda phi, theta, task: problem.inner(phi, theta["spring"], task),
    outer=problem.outer,
    sample=jittered,
)


def score(theta):
    """A loss that is lowest on the way, so that the best theta is not the last one."""
    mean = theta["spring"].mean()
    return {"loss": (mean - 2.0) ** 2, "twice": 2 * mean}


def toy_run(out, **changes):
    """Nine blocks of 10 meta-steps in dispatches of 5, and a last one of 5."""
    settings = dict(
        problem=nested, solver=solver, estimator=mc.FirstOrder(), sample_task=spring_or_steep,
        theta=THETA, optimizer=OPTIMIZER, steps=95, tasks=8, seed=3, out=out, log_every=10,
        steps_per_dispatch=5, average_from=17, validate=score, progress=False,
        config={"method": "toy", "rates": (0.1, 0.2)},
    )  # fmt: skip
    return meta_train(**(settings | changes))


def lines(out):
    """The metrics file without the only numbers that differ from run to run."""
    text = Path(out, "metrics.jsonl").read_text()
    return [{**json.loads(line), "seconds": None} for line in text.splitlines()]


def environment(**changes):
    """Of a process that imports what this one does."""
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    return os.environ | {"PYTHONPATH": path} | changes


def assert_same(one, other):
    """Bit for bit."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def assert_same_run(trained, out, expected, folder):
    """Bit for bit, with the metrics that were written."""
    assert_same((trained.theta, trained.best), (expected.theta, expected.best))
    assert lines(out) == lines(folder)
    assert trained.diverged == expected.diverged > 0


def assert_close_run(trained, out, expected, folder):
    """Up to rounding, which 95 steps of Adam may amplify, but not a hundred thousand fold."""
    bound = 1e5 * float(np.finfo(np.float64).eps)
    close = partial(np.testing.assert_allclose, rtol=bound, atol=bound)
    jax.tree.map(close, (trained.theta, trained.best), (expected.theta, expected.best))
    for one, other in zip(lines(out), lines(folder), strict=True):
        assert one.keys() == other.keys()
        for name in ("diverged", "flags"):
            assert one.pop(name) == other.pop(name)
        close([x or 0 for x in one.values()], [x or 0 for x in other.values()])


FEW = 25  # steps of two processes


def after_a_checkpoint(act):
    """Do something in this process once it has saved one."""
    save = _folder.Folder.add

    def add(*args):
        save(*args)
        act()

    _folder.Folder.add = add


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    out, *which = sys.argv[1:]
    if which:
        at = dict(coordinator=which[0], processes=2, process=int(which[1]))
        use_devices(distributed=True, timeout=5 if "waits" in which else 60, **at)
    if "dies" in which:
        after_a_checkpoint(lambda: os.kill(os.getpid(), signal.SIGKILL))
    if "waits" in which:
        after_a_checkpoint(lambda: time.sleep(1))
    toy_run(out, resume=True, steps=FEW if which else 95)
