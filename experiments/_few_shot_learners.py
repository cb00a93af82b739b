"""Learners of few-shot classification, of Omniglot's characters and of miniImageNet's photographs.

Departures from what is published are named where they are made.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _few_shot import Features, Learner, Settings
from jaxtyping import PyTree

import metacontrast as mc
from metacontrast._precision import matmul
from metacontrast.nets import ConvNet, conv4
from metacontrast.slow import HeadTheta, Splits, modulated, modulation, ridge_head, ridge_newton
from metacontrast.tasks import distorted


def learner(s: Settings, channels: int) -> Learner:
    """The learner of a method.

    Raises:
        ValueError: published settings of a method that was not published.
    """
    if s.published and s.method == "cml-head":
        raise ValueError("published: cml-head is ours alone; leave out --published.")
    kind = {"cml-head": FastHead, "anil": FastLinearHead}.get(s.method, FastWeights)
    return kind(s, channels)


def network(s: Settings, channels: int, classes: int | None = None) -> ConvNet:
    """The convolutional network of these settings: features, or logits of `classes`."""
    # No learner here is differentiated in forward mode first.
    known = jax.default_backend() in ("cpu", "gpu")
    lowering: Literal["reverse"] | None = "reverse" if known else None
    return conv4(
        s.filters, strided=True, channels=channels, size=s.size, classes=classes,
        precision=s.precision, lowering=lowering,
    )  # fmt: skip


def cross_entropy(logits: jax.Array, y: jax.Array) -> jax.Array:
    """The mean over examples."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y))


def nesterov(rate: float, steps: int) -> mc.Solver:
    """The published inner optimiser of the contrastive rule."""
    return mc.descend(optax.sgd(rate, 0.9, nesterov=True), steps)


class FastWeights(Learner):
    """All weights are fast (of `cml-mod`: gains, shifts and the head), pulled to where they start.

    Departure, of `cml-mod`: the published modulated convolutions mix templates; here, as in the
    simplest form of Sacramento's talk, a gain and a shift a channel.

    As published, normalised by the batch: the support set by itself, and the query set by itself,
    which makes the verdicts transductive.

    Departure, where there are `views`: what is learned from in a test is each image and as many
    distorted copies of it, and a verdict is the mean over those on an image and its copies.

    Departure, where they are `centred`: the head sees features less their mean over the batch. What
    all images share tells no class from another, but is most of the curvature of the inner loss.
    """

    def first_theta(self, key: jax.Array) -> PyTree:
        return network(self.s, self.channels, self.s.way).init(key)

    def layers(self, theta: PyTree) -> list[Any]:
        return list(theta)

    def fast(self, theta: PyTree) -> PyTree:
        """Where the fast weights start."""
        return modulation(theta) if self.s.method == "cml-mod" else theta

    def apply(self, phi: PyTree, theta: PyTree, x: jax.Array) -> jax.Array:
        """Logits of images."""
        weights = modulated(phi, theta) if self.s.method == "cml-mod" else phi
        if not self.s.centred:
            return network(self.s, self.channels, self.s.way).apply(weights, x)
        *body, head = weights
        f = network(self.s, self.channels).apply(body, x)
        f = f - jnp.mean(f, 0)[None]
        return matmul(f, head["w"], self.s.precision) + head["b"][None]

    def problem(self, test: bool = False) -> mc.Problem:
        def loss(phi: PyTree, theta: PyTree, data: mc.Data) -> jax.Array:
            return cross_entropy(self.apply(phi, theta, data.x), data.y)

        def inner(phi: PyTree, theta: PyTree, task: mc.Task) -> jax.Array:
            value = loss(phi, theta, task.train)
            if not self.s.pull:
                return value
            return value + mc.Synapse(self.fast(theta), float(np.log(self.s.pull))).pull(phi)

        return mc.Problem(
            init=lambda theta, task: self.fast(theta),
            inner=inner,
            outer=lambda phi, theta, task: loss(phi, theta, task.test),
        )

    def features(self, test: bool = False) -> Features | None:
        copies = lambda theta, task: (theta, with_copies(task, self.s.views))
        return copies if test else None

    def solver(self, test: bool = False) -> mc.Solver:
        s = self.s
        steps = s.test_steps or s.inner_steps if test else s.inner_steps
        if s.pull:
            return nesterov(s.inner_rate, steps)
        return mc.descend(optax.sgd(s.inner_rate), steps)

    def estimator(self) -> mc.Estimator:
        s = self.s
        if s.method in ("cml-syn", "cml-mod"):
            nudged = nesterov(s.inner_rate, s.nudged_steps)
            return mc.Contrastive(
                s.beta, "symmetric", nudge=s.nudge, nudged=nudged, side_by_side=s.side_by_side
            )
        if s.method == "imaml-cg":
            # The network's Hessian may be indefinite where so few steps end; 2 lambda holds it up,
            # and as much again is added.
            return mc.Implicit("cg", iterations=5, damping=2 * s.pull)
        return {
            "maml": mc.Unrolled(), "maml-trajectory": mc.Trajectory(), "fomaml": mc.FirstOrder(),
            "reptile": mc.Reptile(),
        }[s.method]  # fmt: skip

    def logits(self, phi: PyTree, theta: PyTree, x: jax.Array) -> jax.Array:
        verdicts = lambda x: jax.nn.log_softmax(self.apply(phi, theta, x))
        return mean_over_views(verdicts, x, self.s.views)


class Reference(NamedTuple):
    """By what a single image is normalised: training images under the same weights."""

    statistics: PyTree
    centre: jax.Array


class Theta(NamedTuple):
    """Slow features, and what is slow of a fast head on them."""

    body: PyTree
    head: PyTree
    reference: Reference | None = None


class FastLinearHead(Learner):
    """The head alone is fast, from where it starts, by a few steps of gradient descent: `anil`.

    As of Raghu, Raghu, Bengio, Vinyals, "Rapid learning or feature reuse?", 2020. Departure:
    features in rows of length about one, so that one rate fits networks of any width. Normalised
    and transductive as `FastWeights`. In a test, features are averaged over an image and `views`
    distorted copies of it.
    """

    def first_theta(self, key: jax.Array) -> Theta:
        net, s = network(self.s, self.channels), self.s
        body = net.init(key)
        images = jnp.zeros((2, s.size, s.size, self.channels))
        width = jax.eval_shape(net.apply, body, images).shape[1]
        return Theta(body, {"w": jnp.zeros((width, s.way)), "b": jnp.zeros(s.way)})

    def layers(self, theta: Theta) -> list[Any]:
        return list(theta.body)

    def features(self, test: bool = False) -> Features:
        net, views = network(self.s, self.channels), self.s.views if test else 0

        def rows(body: PyTree, data: mc.Data) -> mc.Data:
            f = mean_over_views(partial(net.apply, body), data.x, views)
            return data._replace(x=f / np.sqrt(f.shape[1]))

        return lambda theta, task: (theta.head, mc.Task(*(rows(theta.body, h) for h in task)))

    def problem(self, test: bool = False) -> mc.Problem:
        def loss(phi: PyTree, theta: PyTree, data: mc.Data) -> jax.Array:
            return cross_entropy(self.logits(phi, theta, data.x), data.y)

        return mc.Problem(
            init=lambda theta, z: theta,
            inner=lambda phi, theta, z: loss(phi, theta, z.train),
            outer=lambda phi, theta, z: loss(phi, theta, z.test),
        )

    def solver(self, test: bool = False) -> mc.Solver:
        return mc.descend(optax.sgd(self.s.inner_rate), self.s.inner_steps)

    def estimator(self) -> mc.Estimator:
        return mc.Unrolled()

    def logits(self, phi: PyTree, theta: PyTree, x: jax.Array) -> jax.Array:
        return x @ phi["w"] + phi["b"][None]


class FastHead(Learner):
    """Slow features, and a ridge regression on them: `cml-head`.

    Departures: the published learner adapts all weights, in hundreds of steps. Here the contrast of
    both phases is all that the body sees of learning. Its activations are normalised by all images
    of a training task together, and in a test by those of training classes: so, other than in the
    published figures, no query image has a say in the verdict on another. In a test, an image's
    features are the mean over it and `views` distorted copies of it. With `unit` features are
    centred, by the same images, and of length one (Wang, Chao, Weinberger, van der Maaten,
    "SimpleShot", 2019); otherwise of length about one.
    """

    transductive = False

    def first_theta(self, key: jax.Array) -> Theta:
        head = HeadTheta(log_fit=2.8, log_scale=3.0)
        return Theta(network(self.s, self.channels).init(key), head)

    def prepare(self, theta: Theta, references: jax.Array) -> Theta:
        net = network(self.s, self.channels)
        centre = jnp.mean(net.apply(theta.body, references), 0)
        return theta._replace(reference=Reference(net.statistics(theta.body, references), centre))

    def layers(self, theta: Theta) -> list[Any]:
        return list(theta.body)

    def features(self, test: bool = False) -> Features:
        def encode(theta: Theta, task: mc.Task) -> tuple[HeadTheta, mc.Task | Splits]:
            n = len(task.train.y)
            f = self.rows(theta, jnp.concatenate([task.train.x, task.test.x]), test)
            z = mc.Task(mc.Data(f[:n], task.train.y), mc.Data(f[n:], task.test.y))
            return theta.head, z if test else folds(z, self.s.shot)

        return encode

    def rows(self, theta: Theta, x: jax.Array, test: bool) -> jax.Array:
        """A row of features for each image."""
        net, (stats, centre) = network(self.s, self.channels), theta.reference or (None, None)
        apply = lambda x: net.apply(theta.body, x, stats)
        f = mean_over_views(apply, x, self.s.views if test else 0)
        if self.s.unit:
            f = f - (jnp.mean(f, 0) if centre is None else centre)[None]
            return f / jnp.sqrt(jnp.sum(f**2, 1, keepdims=True) + 1e-6)
        return f / np.sqrt(f.shape[1]).astype(f.dtype)

    def problem(self, test: bool = False) -> mc.Problem:
        return ridge_head(self.s.way if test else self.s.train_way or self.s.way)

    def solver(self, test: bool = False) -> mc.Solver:
        return ridge_newton(2)

    def estimator(self) -> mc.Estimator:
        return mc.Contrastive(self.s.beta, "symmetric", nudged=ridge_newton(2))

    def logits(self, phi: PyTree, theta: HeadTheta, x: jax.Array) -> jax.Array:
        return x @ phi


def folds(task: mc.Task, shot: int) -> Splits:
    """Each `shot` examples of a class in turn as the support set, all others as the query set.

    Departure: published tasks are used in one split only. The features cost nearly all of the time,
    and serve them all.
    """
    way = len(task.train.y) // shot
    rows = lambda leaf: leaf.reshape(way, -1, *leaf.shape[1:])
    every = jax.tree.map(lambda *x: jnp.concatenate([rows(leaf) for leaf in x], 1), *task)
    flat = lambda leaf: leaf.reshape(-1, *leaf.shape[2:])

    def fold(k: int) -> Splits:
        rolled = jax.tree.map(lambda leaf: jnp.roll(leaf, -k * shot, axis=1), every)
        half = lambda part: jax.tree.map(lambda leaf: flat(leaf[:, part]), rolled)
        return Splits(half(slice(None, shot)), half(slice(shot, None)))

    each = [fold(k) for k in range(every.y.shape[1] // shot)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)


def mean_over_views(
    function: Callable[[jax.Array], jax.Array], x: jax.Array, views: int
) -> jax.Array:
    """`function` of images, averaged over them and `views` distorted copies of each."""
    if not views:
        return function(x)
    copies = jax.lax.map(lambda key: function(distort_alike(key, x)), view_keys(views))
    return (function(x) + jnp.sum(copies, 0)) / (views + 1)


def with_copies(task: mc.Task, views: int) -> mc.Task:
    """The task with distorted copies of its support set as further examples."""
    x, y = task.train
    copies = [distort_alike(key, x) for key in view_keys(views)]
    return task._replace(train=mc.Data(jnp.concatenate([x, *copies]), jnp.tile(y, views + 1)))


def distort_alike(key: jax.Array, x: jax.Array) -> jax.Array:
    """All images by one map, so that none depends on how many others there are."""
    return jax.vmap(lambda image: distorted(key, image[None])[0])(x)


def view_keys(views: int) -> jax.Array:
    """What the copies are drawn from, the same for every image."""
    return jax.random.split(jax.random.key(0), views)
