"""LeNet-5 under a learned regulariser: its images, and learning from them in one fixed order."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

import frame
import jax
import jax.numpy as jnp
import numpy as np
import optax
from _cifar10 import error, images, nesterov, normalised, score, start
from _l2_methods import Settings
from jaxtyping import PyTree

import metacontrast as mc
from metacontrast.tasks import cifar10

Learn: TypeAlias = Callable[[PyTree], PyTree]  # theta -> phi
Draw: TypeAlias = Callable[[mc.Task, jax.Array], mc.Task]


class Photographs(NamedTuple):
    """One seed's photographs."""

    learned: mc.Data
    valid: mc.Data
    statistics: np.ndarray  # by which both are normalised

    @property
    def both(self) -> mc.Data:
        """Those learned from and those to validate on."""
        return jax.tree.map(lambda *parts: jnp.concatenate(parts), self.learned, self.valid)


def photographs(s: Settings) -> Photographs:
    """To learn from and to validate on, both of the training images."""
    (learned, valid), statistics = images(s.seed, s.images, s.valid_images)
    return Photographs(learned, valid, statistics)


def others(part: str, statistics: np.ndarray) -> mc.Data:
    """A part of CIFAR-10, normalised by the statistics of other images."""
    x, y = cifar10(part)
    return normalised(mc.Data(x.astype(np.float32) / 255, y), statistics)


def sample(key: jax.Array, data: mc.Data, n: int) -> mc.Data:
    """`n` of the examples, with replacement."""
    chosen = jax.random.randint(key, (n,), 0, data.y.shape[0])
    # Behind a barrier, or XLA would look each image up again for each of its patches.
    return jax.lax.optimization_barrier(mc.Data(data.x[chosen], data.y[chosen]))


def sample_task(s: Settings, photos: Photographs, key: jax.Array) -> mc.Task:
    """What a meta-step sees besides the batches: images for Hessian products, and to validate."""
    learned, valid = jax.random.split(key)
    return mc.Task(
        sample(learned, photos.learned, s.product_batch), sample(valid, photos.valid, s.valid_batch)
    )


def batches(learned: mc.Data, n: int) -> Draw:
    """Of these images `n` a view, and as many of those that the task validates on."""

    def draw(task: mc.Task, key: jax.Array) -> mc.Task:
        of_train, of_test = jax.random.split(key)
        return mc.Task(sample(of_train, learned, n), sample(of_test, task.test, n))

    return draw


def problem(seed: int, draw: Draw) -> mc.Problem:
    """LeNet-5 from this seed's start; theta are the logarithms of lambda."""
    phi = start(seed)
    return mc.Problem(
        init=lambda theta, task: phi,
        inner=lambda phi, theta, z: error(phi, z.train) + pull(phi, theta),
        outer=lambda phi, theta, z: error(phi, z.test),
        sample=draw,
    )


def pull(phi: PyTree, theta: PyTree) -> jax.Array:
    """Of weights to zero, by lambdas of each or of a layer."""
    return mc.Synapse(log_lam=jax.tree.broadcast(theta, phi)).pull(phi)


def log_lambdas(s: Settings, lam: float) -> PyTree:
    """The same everywhere: of each weight, or, of other methods, of each layer as a whole."""
    phi, value = start(s.seed), math.log(max(lam, 1e-12))
    if s.method in ("layer", "grid", "none"):
        return jax.tree.map(lambda layer: jnp.full((), value), phi, is_leaf=lambda x: x is not phi)
    return jax.tree.map(lambda leaf: jnp.full(leaf.shape, value), phi)


@dataclass(frozen=True, kw_only=True)
class InOrder(mc.Solver):
    """A learner on the same batches in the same order, whatever key the phase has.

    It is handed the loss of the whole task, and takes the view of each step itself.
    """

    learner: mc.Solver
    draw: Draw
    order: int  # a seed

    def init(self, loss: mc.Loss, phi: PyTree, memory: PyTree = None) -> mc.State:
        """Of the learner."""
        return self.learner.init(loss, phi, memory)

    def step(self, loss: mc.Loss, state: mc.State, t: int | jax.Array) -> mc.State:
        """One of the learner's, on the view of its turn."""
        of_order = replace(loss.problem, sample=self.draw)
        whole = replace(loss, problem=of_order, key=frame.first_key(self.order))
        return self.learner.step(whole.view(t), state, t)


def in_order(s: Settings, learned: mc.Data, order: int) -> InOrder:
    """Learning from these images, of which a seed draws the order of batches."""
    rate = optax.cosine_decay_schedule(s.rate, s.free)
    learner, draw = nesterov(rate, s.momentum, s.free), batches(learned, s.batch)
    return InOrder(learner=learner, draw=draw, order=order, steps=s.free, sampled=False)


def learning(s: Settings, learned: mc.Data, seed: int) -> Learn:
    """`theta -> phi`: learning from these images, with this seed's start and order of batches."""
    at, solver = problem(seed, batches(learned, s.batch)), in_order(s, learned, seed)
    few = sample(frame.first_key(seed), learned, s.batch)  # which nobody looks at
    return jax.jit(lambda theta: mc.solve_inner(at, solver, theta, mc.Task(few, few)).phi)


@jax.jit
def scores(phi: PyTree, data: mc.Data) -> tuple[jax.Array, jax.Array]:
    """Of each image the loss, and 100 where its class is recognised."""
    rows = math.gcd(data.y.shape[0], 1000)
    chunks = jax.tree.map(lambda leaf: leaf.reshape(-1, rows, *leaf.shape[1:]), data)
    losses, is_correct = jax.lax.map(lambda chunk: score(phi, chunk), chunks)
    return losses.ravel(), 100.0 * is_correct.ravel()
