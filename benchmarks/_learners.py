"""Learners on which the rule is timed: sines, Conv4 and LeNet-5, with the experiments' inner steps.

Images are noise, which takes as long as any others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

import metacontrast as mc
from metacontrast.nets import conv4, lenet5, mlp
from metacontrast.nets._conv import Lowering
from metacontrast.tasks import sine

Apply = Callable[[PyTree, jax.Array], jax.Array]
NET = mlp(1, 40, 2, 1, jnp.tanh)


class Learner(NamedTuple):
    """A problem with one or several tasks, and the phases of the symmetric contrast."""

    problem: mc.Problem
    free: mc.Solver
    nudged: mc.Solver
    beta: float
    theta: PyTree
    tasks: PyTree  # stacked


def learners(quick: bool) -> dict[str, Callable[[], Learner]]:
    """Each when it is called; `quick`: without convolutions, which take long to compile."""
    return {"sine": sine_learner} | ({} if quick else {"Conv4": conv4_learner, "LeNet-5": lenet})


def nesterov(rate: optax.ScalarOrSchedule, steps: int) -> mc.Solver:
    """Gradient descent with Nesterov's momentum."""
    return mc.descend(optax.sgd(rate, 0.9, nesterov=True), steps)


def sine_learner() -> Learner:
    """`cml-gd` of the experiment `sine`: 25 tasks, 100 free steps and twice 50."""
    free, nudged = (descent_on_sines(steps) for steps in (100, 50))
    tasks = jax.vmap(sine)(jax.random.split(jax.random.key(0), 25))
    return Learner(sine_problem(), free, nudged, 0.05, sine_theta(), tasks)


def descent_on_sines(steps: int) -> mc.Solver:
    """Its rate falls to a hundredth on a cosine."""
    return nesterov(optax.cosine_decay_schedule(1e-3, steps, 0.01), steps)


def sine_problem(apply: Apply = NET.apply) -> mc.Problem:
    """Sums of squares by a network whose every weight is a complex synapse."""

    def squares(phi: PyTree, data: mc.Data) -> jax.Array:
        return jnp.sum((jax.vmap(partial(apply, phi))(data.x) - data.y) ** 2)

    return mc.Problem(
        init=lambda theta, task: theta.omega,
        inner=lambda phi, theta, task: squares(phi, task.train) + theta.pull(phi),
        outer=lambda phi, theta, task: squares(phi, task.test),
    )


def sine_theta(lam: float = 5.0) -> mc.Synapse:
    """The random network of the experiment's seed 0, and equal strengths."""
    omega = jax.jit(NET.init)(jax.random.fold_in(jax.random.key(0), 2**31))
    return mc.Synapse(omega, jax.tree.map(lambda w: jnp.full(w.shape, jnp.log(lam)), omega))


def conv4_learner() -> Learner:
    """`cml-syn` of the experiment `omniglot`, 5-way 1-shot, as published, with 5 queries a class.

    One task; every weight is pulled to where it starts.
    """
    # As the experiment has it: nothing here is differentiated in forward mode first.
    lowering: Lowering | None = "reverse" if jax.default_backend() == "cpu" else None
    net = conv4(64, strided=True, classes=5, lowering=lowering)
    free, nudged = (nesterov(1e-2, steps) for steps in (200, 100))
    problem = classification(net.apply, pull=lambda omega: mc.Synapse(omega, math.log(0.25)))
    tasks = one_task(support=5, queries=25, size=28, channels=1, classes=5)
    return Learner(problem, free, nudged, 0.1, net.init(jax.random.key(0)), tasks)


def lenet() -> Learner:
    """The experiment `cifar10_overfit`: a lambda for each weight, 50 images, and 100 judges."""
    net = lenet5()
    first = net.init(jax.random.key(0))
    log_lam = jax.tree.map(lambda w: jnp.full(w.shape, jnp.log(1e-4)), first)
    free, nudged = (nesterov(0.02, steps) for steps in (100, 20))
    pull = lambda log_lam: mc.Synapse(log_lam=log_lam)
    problem = classification(net.apply, pull, init=lambda theta, task: first)
    tasks = one_task(support=50, queries=100, size=32, channels=3, classes=10)
    return Learner(problem, free, nudged, 1e-3, log_lam, tasks)


def classification(
    apply: Apply,
    pull: Callable[[PyTree], mc.Synapse],
    init: Callable[[PyTree, PyTree], PyTree] = lambda theta, task: theta,
) -> mc.Problem:
    """Cross-entropy of images, and what pulls the weights."""

    def error(phi: PyTree, data: mc.Data) -> jax.Array:
        logits = apply(phi, data.x)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, data.y))

    return mc.Problem(
        init,
        inner=lambda phi, theta, task: error(phi, task.train) + pull(theta).pull(phi),
        outer=lambda phi, theta, task: error(phi, task.test),
    )


def one_task(support: int, queries: int, size: int, channels: int, classes: int) -> mc.Task:
    """A stack of one task."""
    halves = (noise(i, n, size, channels, classes) for i, n in enumerate((support, queries)))
    return jax.tree.map(lambda leaf: leaf[None], mc.Task(*halves))


def noise(seed: int, images: int, size: int, channels: int, classes: int) -> mc.Data:
    """Images and their classes, at random."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(size=(images, size, size, channels)).astype(np.float32)
    return mc.Data(jnp.asarray(x), jnp.asarray(rng.permutation(images) % classes))
