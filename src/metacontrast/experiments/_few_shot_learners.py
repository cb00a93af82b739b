"""Learners of few-shot classification, shared by Omniglot and miniImageNet.

Settings follow the published ones where there are any; departures are named where they are made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import metacontrast as mc

from ..nets import ConvNet, conv4
from ..tasks import distorted


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
    views: int = 0  # distorted copies of each image in judging; each learner says what they are for
    linear: bool = False  # the nudge, see `LinearNudge`
    unit: bool = False  # features that a fast head is given, see `fast_head`


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

    Departure, where there are `settings.views`: in judging, what is learned from is each image and
    as many distorted copies of it, and a verdict is the mean over those on an image and its copies.
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

    def logits(phi: Any, theta: Any, task: mc.Task) -> jax.Array:
        told = lambda x: jax.nn.log_softmax(net.apply(whole(phi, theta), x))
        return mean_over_views(told, task.test.x, settings.views)

    problem = mc.Problem(
        init=lambda theta, task: fast(theta),
        inner=inner,
        outer=lambda phi, theta, task: loss(phi, theta, task.test),
    )
    return Learner(
        net.init,
        problem,
        replace(problem, encode=lambda theta, task: _with_copies(task, settings.views)),
        lambda theta, x: theta,
        logits,
        lambda theta: theta,
        solve(settings.inner_steps),
        solve(settings.judged_steps or settings.inner_steps),
        estimator,
        transductive=True,
    )


def mean_over_views(
    function: Callable[[jax.Array], jax.Array], x: jax.Array, views: int
) -> jax.Array:
    """`function` of images, averaged over them and `views` distorted copies of each."""
    if not views:
        return function(x)
    moved = jax.lax.map(lambda key: function(_moved(key, x)), _keys(views))
    return (function(x) + jnp.sum(moved, 0)) / (views + 1)


def _with_copies(task: mc.Task, views: int) -> mc.Task:
    """The task with distorted copies of its support set as further examples."""
    x, y = task.train
    copies = [_moved(key, x) for key in _keys(views)]
    return task._replace(train=mc.Data(jnp.concatenate([x, *copies]), jnp.tile(y, views + 1)))


def _moved(key: jax.Array, x: jax.Array) -> jax.Array:
    # In each view one map moves all images, so that none depends on how many others there are.
    return jax.vmap(lambda image: distorted(key, image[None])[0])(x)


def _keys(views: int) -> jax.Array:
    return jax.random.split(jax.random.key(0), views)


def fast_linear_head(way: int, settings: Settings, estimator: Any) -> Learner:
    """The head alone is fast, from where it starts, by a few steps of gradient descent.

    As of Raghu, Raghu, Bengio, Vinyals, "Rapid learning or feature reuse?", 2020. Departure:
    features in rows of length about one, so that one rate fits networks of any width. Normalised
    and transductive as `fast_weights`. In judging, features are averaged over an image and
    `settings.views` distorted copies of it.
    """
    net = network(settings)

    def features(theta: Any, task: mc.Task, views: int = 0) -> mc.Task:
        rows = partial(net.apply, theta["body"])
        seen = [mc.Data(mean_over_views(rows, half.x, views), half.y) for half in task]
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
    judged = partial(features, views=settings.views)
    return Learner(
        first,
        problem,
        replace(problem, encode=judged),
        lambda theta, x: theta,
        lambda phi, theta, task: logits(phi, judged(theta, task).test),
        lambda theta: theta["body"],
        solve,
        solve,
        estimator,
        transductive=True,
    )


def nesterov(rate: float, steps: int) -> Any:
    """The published inner optimiser of the contrastive rule."""
    return mc.descend(optax.sgd(rate, 0.9, nesterov=True), steps)
