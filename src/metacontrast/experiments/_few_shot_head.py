"""The fast head on slow features, as a learner of few-shot classification."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import metacontrast as mc

from ..nets import ConvNet
from ._few_shot_learners import Learner, Settings, mean_over_views, network


def fast_head(way: int, shot: int, settings: Settings) -> Learner:
    """Slow features, and a ridge regression on them: `cml-head`.

    Departures: the published learner adapts all weights, in hundreds of steps. Here the contrast of
    both phases is all that the body sees of learning. Its activations are normalised by all images
    of a training task together, and in judging by those of training classes: so, other than in the
    published figures, no query image has a say in the verdict on another. In judging, an image's
    features are the mean over it and `settings.views` distorted copies of it. With `settings.unit`
    features are centred, by the same images, and of length one (Wang, Chao, Weinberger, van der
    Maaten, "SimpleShot", 2019); otherwise of length about one.
    """
    net = network(settings)
    train_way, unit = settings.train_way or way, settings.unit
    rows = lambda body, task: _features(net, body, None, None, task, unit=unit)

    def seen(body: Any, x: jax.Array) -> tuple[Any, Any, jax.Array]:
        return body, net.statistics(body, x), jnp.mean(net.apply(body, x), 0)

    def judged(by: tuple[Any, Any, jax.Array], task: mc.Task) -> mc.Task:
        body, stats, centre = by
        return _features(net, body, stats, centre, task, settings.views, unit)

    return Learner(
        lambda key: mc.HeadTheta(net.init(key), log_fit=2.8, log_scale=3.0),
        mc.ridge_head(lambda body, task: _folds(rows(body, task), shot), train_way),
        mc.ridge_head(judged, way),
        lambda theta, x: theta._replace(body=seen(theta.body, x)),
        lambda phi, theta, task: judged(theta.body, task).test.x @ phi,
        lambda theta: theta.body,
        mc.ridge_newton(2),
        mc.ridge_newton(2),
        mc.Contrastive(settings.beta, "symmetric", nudged=mc.ridge_newton(2)),
        transductive=False,
    )


def _features(
    net: ConvNet,
    body: Any,
    stats: Any,
    centre: Any,
    task: mc.Task,
    views: int = 0,
    unit: bool = False,
) -> mc.Task:
    """The task with features in place of images; by their own statistics if none are given."""
    n = len(task.train.y)
    x = jnp.concatenate([task.train.x, task.test.x])
    f = mean_over_views(lambda x: net.apply(body, x, stats), x, views)
    if unit:
        f = f - (jnp.mean(f, 0) if centre is None else centre)[None]
        f = f / jnp.sqrt(jnp.sum(f**2, 1, keepdims=True) + 1e-6)
    else:
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
