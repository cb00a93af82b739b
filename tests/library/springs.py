"""Runs of the loop on springs, and what each meta-step must do, by hand in NumPy."""

from functools import cache

import jax
import numpy as np
import optax
from problems import EPS
from toy_run import noisy, problem, solver, spring, spring_or_steep

import metacontrast as mc
from metacontrast.train import meta_train

SEED, TASKS, THETA, STEPS = 7, 16, 0.5, 6
OPTIMIZER = optax.chain(optax.clip(0.7), optax.sgd(lambda t: 0.3 / (1 + t), momentum=0.9))


def train(**changes):
    arguments = dict(
        problem=problem, solver=solver, estimator=mc.Unrolled(), sample_task=spring, theta=THETA,
        optimizer=OPTIMIZER, steps=STEPS, tasks=TASKS, seed=SEED, log_every=2,
        steps_per_dispatch=1, progress=False,
    )  # fmt: skip
    return meta_train(**(arguments | changes))


base = cache(train)


@cache
def steep_run(task_batch_size):
    """One in four tasks diverges; each has noise of its own; a diagnostic is a list."""
    return train(
        problem=noisy, estimator=mc.Contrastive(0.1, order=2), sample_task=spring_or_steep,
        steps=2, log_every=1, task_batch_size=task_batch_size,
    )  # fmt: skip


@cache
def drawn(t, sample_task=spring):
    """The tasks of meta-step `t` and the keys to learn them with, by the documented rule."""
    keys = jax.random.split(jax.random.fold_in(jax.random.key(SEED), t))
    drawing, learning = (jax.random.split(key, TASKS) for key in keys)
    tasks = jax.jit(jax.vmap(sample_task))(drawing)
    return [jax.tree.map(lambda leaf, i=i: leaf[i], tasks) for i in range(TASKS)], learning


def centres(t, sample_task=spring):
    """Of the tasks of meta-step `t` that do not diverge."""
    tasks = jax.tree.map(np.asarray, drawn(t, sample_task)[0])
    return np.array([x.centre for x in tasks if x.steepness == 1])


def exact_loss(theta, centres):
    """The mean of `(phi - 1)^2` at phi = (centre + theta) / 2; its gradient is that of phi - 1."""
    return (((centres + theta) / 2 - 1) ** 2).mean()


def exact_gradient(theta, t, sample_task=spring):
    return np.mean((centres(t, sample_task) + theta) / 2 - 1)


def by_hand(gradient=exact_gradient, steps=STEPS):
    """Theta after each meta-step of the optimizer above."""
    theta, trace, thetas = THETA, 0.0, []
    for t in range(steps):
        trace = np.clip(gradient(theta, t), -0.7, 0.7) + 0.9 * trace
        theta = theta - 0.3 / (1 + t) * trace
        thetas.append(theta)
    return np.array(thetas)


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1000 * EPS)
