"""Learners of few-shot classification, shared by Omniglot and miniImageNet.

Settings follow the published ones where there are any; departures are named where they are made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import metacontrast as mc

from ..nets import ConvNet, conv4


@dataclass(frozen=True)
class Settings:
    """What a run depends on besides its method, the kind of its tasks and its seed."""

    steps: int
    tasks: int
    queries: int
    outer_rate: float
    size: int = 28  # of the images
    channels: int = 1
    filters: tuple[int, int, int, int] = (64, 64, 64, 64)
    train_way: int | None = None  # None: that of the test tasks
    inner_steps: int = 0
    nudged_steps: int = 0
    inner_rate: float = 0.0
    judged_steps: int | None = None  # inner steps in judging; None: as many as in training
    pull: float = 0.0  # lambda of the complex synapse, not learned
    beta: float = 0.0
    last_rate: float = 0.01  # of the outer rate, at the end of its cosine
    distort: float = 0.0  # of training images, see `episodes`
    mirror: bool = False  # half of the training images
    views: int = 0  # distorted copies of an image whose features are averaged in judging it
    linear: bool = False  # the nudge, see `LinearNudge`


class Learner(NamedTuple):
    """A learner: how it is meta-trained, and how its verdicts are had.

    Attributes:
        first: `key -> theta`.
        train: the problem that is meta-trained.
        judge: the problem it is judged on, whose theta is `prepared`.
        prepared: `(theta, images) -> theta` of `judge`, given a few images of training classes.
        logits: `(phi, theta, task) -> logits` of the query set.
        body: `theta -> weights` of the convolutional network, layer by layer.
        solve: how tasks are learned in meta-training.
        judge_solve: and how in judging.
        transductive: whether a verdict depends on the other query images.
    """

    first: Callable[[jax.Array], Any]
    train: mc.Problem
    judge: mc.Problem
    prepared: Callable[[Any, jax.Array], Any]
    logits: Callable[[Any, Any, mc.Task], jax.Array]
    body: Callable[[Any], Any]
    solve: Any
    judge_solve: Any
    estimator: Any
    transductive: bool


def network(settings: Settings, classes: int | None = None) -> ConvNet:
    """The convolutional network of these settings: features, or logits of `classes`."""
    size, channels = settings.size, settings.channels
    # No learner here is differentiated in forward mode first.
    lowering = "reverse" if jax.default_backend() == "cpu" else None
    return conv4(
        settings.filters, strided=True, channels=channels, size=size, classes=classes,
        lowering=lowering,
    )  # fmt: skip


def _cross_entropy(logits: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y))


def fast_weights(way: int, settings: Settings, estimator: Any, modulated: bool = False) -> Learner:
    """All weights are fast (or gains, shifts and the head are), pulled to where they start.

    Departure, where they are modulated: the published modulated convolutions mix templates; here,
    as in the talk's simplest form, a gain and a shift a channel.

    As published, normalised by the batch: the support set by itself, and the query set by itself,
    which makes the verdicts transductive.
    """
    net = network(settings, way)
    fast = mc.modulation if modulated else (lambda theta: theta)
    whole = mc.modulated if modulated else (lambda phi, theta: phi)
    log_pull = float(np.log(settings.pull)) if settings.pull else None

    def solve(steps: int) -> Any:
        if settings.pull:
            return nesterov(settings.inner_rate, steps)
        return mc.descend(optax.sgd(settings.inner_rate), steps)

    def loss(phi: Any, theta: Any, data: mc.Data) -> jax.Array:
        return _cross_entropy(net.apply(whole(phi, theta), data.x), data.y)

    def inner(phi: Any, theta: Any, task: mc.Task) -> jax.Array:
        value = loss(phi, theta, task.train)
        return value if log_pull is None else value + mc.attraction(phi, fast(theta), log_pull)

    problem = mc.Problem(
        init=lambda theta, task: fast(theta),
        inner=inner,
        outer=lambda phi, theta, task: loss(phi, theta, task.test),
    )
    return Learner(
        net.init,
        problem,
        problem,
        lambda theta, x: theta,
        lambda phi, theta, task: net.apply(whole(phi, theta), task.test.x),
        lambda theta: theta,
        solve(settings.inner_steps),
        solve(settings.judged_steps or settings.inner_steps),
        estimator,
        transductive=True,
    )


def fast_linear_head(way: int, settings: Settings, estimator: Any) -> Learner:
    """The head alone is fast, from where it starts, by a few steps of gradient descent.

    As of Raghu, Raghu, Bengio, Vinyals, "Rapid learning or feature reuse?", 2020. Departure:
    features in rows of length about one, so that one rate fits networks of any width. Normalised
    and transductive as `fast_weights`.
    """
    net = network(settings)

    def features(theta: Any, task: mc.Task) -> mc.Task:
        rows = lambda x: net.apply(theta["body"], x)
        seen = [mc.Data(rows(half.x), half.y) for half in task]
        return mc.Task(*(half._replace(x=half.x / np.sqrt(half.x.shape[1])) for half in seen))

    def first(key: jax.Array) -> Any:
        body = net.init(key)
        image = jnp.zeros((2, settings.size, settings.size, settings.channels))
        width = jax.eval_shape(net.apply, body, image).shape[1]
        return {"body": body, "head": {"w": jnp.zeros((width, way)), "b": jnp.zeros(way)}}

    logits = lambda phi, data: data.x @ phi["w"] + phi["b"][None]
    solve = mc.descend(optax.sgd(settings.inner_rate), settings.inner_steps)
    problem = mc.Problem(
        init=lambda theta, task: theta["head"],
        inner=lambda phi, theta, z: _cross_entropy(logits(phi, z.train), z.train.y),
        outer=lambda phi, theta, z: _cross_entropy(logits(phi, z.test), z.test.y),
        encode=features,
    )
    return Learner(
        first,
        problem,
        problem,
        lambda theta, x: theta,
        lambda phi, theta, task: logits(phi, features(theta, task).test),
        lambda theta: theta["body"],
        solve,
        solve,
        estimator,
        transductive=True,
    )


def nesterov(rate: float, steps: int) -> Any:
    """The published inner optimiser of the contrastive rule."""
    return mc.descend(optax.sgd(rate, 0.9, nesterov=True), steps)
