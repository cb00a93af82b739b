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
    pull: float = 0.0  # lambda of the complex synapse, not learned
    beta: float = 0.0
    last_rate: float = 0.01  # of the outer rate, at the end of its cosine


class Learner(NamedTuple):
    """A learner: how it is meta-trained, and how its verdicts are had.

    Attributes:
        first: `key -> theta`.
        train: the problem that is meta-trained.
        judge: the problem it is judged on, whose theta is `prepared`.
        prepared: `(theta, images) -> theta` of `judge`, given a few images of training classes.
        logits: `(phi, theta, task) -> logits` of the query set.
        transductive: whether a verdict depends on the other query images.
    """

    first: Callable[[jax.Array], Any]
    train: mc.Problem
    judge: mc.Problem
    prepared: Callable[[Any, jax.Array], Any]
    logits: Callable[[Any, Any, mc.Task], jax.Array]
    solve: Any
    estimator: Any
    transductive: bool


def _net(settings: Settings, classes: int | None = None) -> ConvNet:
    size, channels = settings.size, settings.channels
    return conv4(settings.filters, strided=True, channels=channels, size=size, classes=classes)


def fast_head(way: int, shot: int, settings: Settings) -> Learner:
    """Slow features, and a ridge regression on them: `cml-head`.

    Departures: the published learner adapts all weights, in hundreds of steps. Here the contrast of
    both phases is all that the body sees of learning. Its activations are normalised by all images
    of a training task together, and in judging by those of training classes: so, other than in the
    published figures, no query image has a say in the verdict on another.
    """
    net = _net(settings)
    train_way = settings.train_way or way
    judged = lambda body, task: _features(net, body[0], task, body[1])
    return Learner(
        lambda key: mc.HeadTheta(net.init(key), log_fit=2.8, log_scale=3.0),
        mc.ridge_head(lambda body, task: _folds(_features(net, body, task), shot), train_way),
        mc.ridge_head(judged, way),
        lambda theta, x: theta._replace(body=(theta.body, net.statistics(theta.body, x))),
        lambda phi, theta, task: judged(theta.body, task).test.x @ phi,
        mc.ridge_newton(2),
        mc.Contrastive(settings.beta, "symmetric", nudged=mc.ridge_newton(2)),
        transductive=False,
    )


def _features(net: ConvNet, body: Any, task: mc.Task, stats: Any = None) -> mc.Task:
    """The task with features, in rows of length about one, in place of its images."""
    n = len(task.train.y)
    f = net.apply(body, jnp.concatenate([task.train.x, task.test.x]), stats)
    f = f / np.sqrt(f.shape[1]).astype(f.dtype)
    return mc.Task(mc.Data(f[:n], task.train.y), mc.Data(f[n:], task.test.y))


def _folds(task: mc.Task, shot: int) -> mc.Task:
    """Each `shot` examples of a class in turn as the support set, all others as the query set.

    Departure: published tasks are used in one split only. The features cost nearly all of the time,
    and serve them all.
    """
    way = len(task.train.y) // shot
    rows = lambda leaf: leaf.reshape(way, -1, *leaf.shape[1:])
    every = jax.tree.map(lambda *x: jnp.concatenate([rows(leaf) for leaf in x], 1), *task)
    flat = lambda leaf: leaf.reshape(-1, *leaf.shape[2:])

    def fold(k: int) -> mc.Task:
        turned = jax.tree.map(lambda leaf: jnp.roll(leaf, -k * shot, axis=1), every)
        half = lambda part: jax.tree.map(lambda leaf: flat(leaf[:, part]), turned)
        return mc.Task(half(slice(None, shot)), half(slice(shot, None)))

    folds = [fold(k) for k in range(every.y.shape[1] // shot)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *folds)


def _cross_entropy(logits: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y))


def fast_weights(way: int, settings: Settings, estimator: Any, split: Any = None) -> Learner:
    """All weights are fast (or, given `split`, some), pulled to slow ones from where they start.

    As published, normalised by the batch: the support set by itself, and the query set by itself,
    which makes the verdicts transductive.
    """
    net = _net(settings, way)
    fast, whole = split or ((lambda theta: theta), (lambda phi, theta: phi))
    log_pull = float(np.log(settings.pull)) if settings.pull else None

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
        nesterov(settings.inner_rate, settings.inner_steps)
        if settings.pull
        else mc.descend(optax.sgd(settings.inner_rate), settings.inner_steps),
        estimator,
        transductive=True,
    )


def nesterov(rate: float, steps: int) -> Any:
    """The published inner optimiser of the contrastive rule."""
    return mc.descend(optax.sgd(rate, 0.9, nesterov=True), steps)


def modulation() -> Any:
    """Gains, shifts and the head are fast; convolutions are slow.

    Departure: the published modulated convolutions mix templates; here, as in the talk's simplest
    form, a gain and a shift a channel.
    """
    fast_names = ("gain", "shift")

    def fast(theta: Any) -> Any:
        *body, head = theta
        return [{name: layer[name] for name in fast_names} for layer in body] + [head]

    def whole(phi: Any, theta: Any) -> Any:
        *body, head = phi
        return [slow | own for slow, own in zip(theta[:-1], body, strict=True)] + [head]

    return fast, whole
