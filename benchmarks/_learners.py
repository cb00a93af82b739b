"""Learners of images on which the rule is timed; the images are noise, which takes as long."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import metacontrast as mc

from ..experiments import _few_shot_learners as few_shot
from ..experiments import cifar10_overfit, sine
from ..experiments._few_shot_methods import for_omniglot
from ..nets import conv4, lenet5
from ..tasks import sine as draw


class Learning(NamedTuple):
    """One or several tasks of a problem, with the phases of the symmetric contrast."""

    problem: mc.Problem
    free: mc.Solver
    nudged: mc.Solver
    beta: float
    theta: Any
    tasks: Any  # stacked


# The learners of the experiments, with as many inner steps.
def learnings(quick: bool) -> dict[str, Callable[[], Learning]]:
    """Each when it is called; `quick`: without convolutions, which take long to compile."""
    return {"sine": sine_learning} | ({} if quick else {"Conv4": _conv4, "LeNet-5": _lenet5})


def noise(seed: int, images: int, size: int, channels: int, classes: int) -> mc.Data:
    """Images and their classes, at random."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(size=(images, size, size, channels)).astype(np.float32)
    return mc.Data(jnp.asarray(x), jnp.asarray(rng.permutation(images) % classes))


def sine_learning() -> Learning:
    """`sine --method cml-gd`: 25 tasks, 100 free steps and twice 50."""
    method = sine.METHODS["cml-gd"]
    tasks = jax.vmap(draw)(jax.random.split(jax.random.key(0), method.settings.tasks))
    rule = method.estimator
    theta = sine.first_theta(0, method.settings.first_lambda)
    return Learning(method.problem, method.solve, rule.nudged, rule.beta, theta, tasks)


def _conv4() -> Learning:
    """`omniglot --method cml-syn`, 5-way 1-shot: one task, 5 queries a class instead of 15."""
    settings = for_omniglot("cml-syn", 5, 1, published=True)
    learner = few_shot.fast_weights(5, settings, None)
    free, nudged = (
        few_shot.nesterov(settings.inner_rate, steps)
        for steps in (settings.inner_steps, settings.nudged_steps)
    )
    theta = learner.first(jax.random.key(0))
    return Learning(
        learner.train, free, nudged, settings.beta, theta, _one(5, 25, settings.size, 1, 5)
    )


def _lenet5() -> Learning:
    """`cifar10-overfit`: a lambda for each weight, 50 images; 100 are judged instead of 950."""
    start = lenet5().init(jax.random.key(0))
    theta = jax.tree.map(lambda w: jnp.full(w.shape, jnp.log(1e-4)), start)
    optimizer = optax.sgd(cifar10_overfit.RATE, 0.9, nesterov=True)
    steps = cifar10_overfit.STEPS, cifar10_overfit.EXTRA // 2
    free, nudged = (mc.descend(optimizer, n) for n in steps)
    problem = cifar10_overfit.problem(start, clipped=False)
    return Learning(problem, free, nudged, 1e-3, theta, _one(50, 100, 32, 3, 10))


def _one(support: int, query: int, size: int, channels: int, classes: int) -> mc.Task:
    task = mc.Task(*(noise(i, n, size, channels, classes) for i, n in enumerate((support, query))))
    return jax.tree.map(lambda leaf: leaf[None], task)


class Conv4Case(NamedTuple):
    """A learner for the comparison with PyTorch: support images alone, cross-entropy and a pull."""

    filters: int
    strided: bool
    way: int
    tasks: int
    steps: int
    rate: float = 1e-2
    pull: float = 0.25
    momentum: float = 0.9


def conv4_learned(at: Conv4Case, dtype: Any = jnp.float32) -> tuple[Any, Any, Any]:
    """`(learn, omega, support sets)`: `learn(omega, support sets)` is every task's phi in the end.

    One image a class.
    """
    net = conv4(at.filters, strided=at.strided, classes=at.way)
    omega = net.init(jax.random.key(0))
    data = jax.tree.map(
        lambda *leaves: jnp.stack(leaves),
        *(noise(i, at.way, 28, 1, at.way) for i in range(at.tasks)),
    )
    omega, x = jax.tree.map(lambda leaf: leaf.astype(dtype), (omega, data.x))

    def inner(phi: Any, omega: Any, data: mc.Data) -> jax.Array:
        logits = net.apply(phi, data.x)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, data.y)
        return jnp.mean(losses) + mc.attraction(phi, omega, float(np.log(at.pull)))

    problem = mc.Problem(lambda omega, _: omega, inner, inner)
    solve = mc.descend(optax.sgd(at.rate, at.momentum, nesterov=True), at.steps)
    one = lambda omega, data: mc.learn(problem, solve, omega, data).phi
    return jax.jit(jax.vmap(one, (None, 0))), omega, data._replace(x=x)
