"""CIFAR-10 and LeNet-5, which learns it, for the experiments on learned regularisers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

import metacontrast as mc
from metacontrast.nets import lenet5
from metacontrast.tasks import cifar10

NET = lenet5()


def start(seed: int) -> PyTree:
    """The weights from which a seed always learns."""
    return NET.init(jax.random.key(seed))


def images(seed: int, *counts: int) -> tuple[list[mc.Data], np.ndarray]:
    """Training images in disjoint groups of these sizes, and the statistics they share.

    Normalised: each channel is of mean 0 and deviation 1 over all groups together.

    Raises:
        ValueError: the cache holds fewer.
    """
    x, y = cifar10("train")
    if sum(counts) > len(x):
        raise ValueError(
            f"images, valid_images: {sum(counts):,} are asked for, and the cache of CIFAR-10 holds "
            f"{len(x):,}; ask for fewer, or get all with metacontrast data fetch cifar10."
        )
    chosen = np.random.default_rng(seed).permutation(len(x))[: sum(counts)]
    pixels = x[chosen].astype(np.float32) / 255
    statistics = np.stack([pixels.mean(axis=(0, 1, 2)), pixels.std(axis=(0, 1, 2))])
    groups = np.split(np.arange(len(chosen)), np.cumsum(counts)[:-1])
    return [normalised(mc.Data(pixels[i], y[chosen[i]]), statistics) for i in groups], statistics


def normalised(data: mc.Data, statistics: np.ndarray) -> mc.Data:
    """Images (n, 32, 32, 3), 0 to 1, by the statistics of others."""
    mean, deviation = statistics
    return mc.Data(jnp.asarray((data.x - mean) / deviation), jnp.asarray(data.y))


def score(phi: PyTree, data: mc.Data) -> tuple[jax.Array, jax.Array]:
    """The cross-entropy of each image, and whether its class is recognised."""
    logits = NET.apply(phi, data.x)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, data.y)
    return losses, jnp.argmax(logits, axis=1) == data.y


def error(phi: PyTree, data: mc.Data) -> jax.Array:
    """The mean cross-entropy."""
    return jnp.mean(score(phi, data)[0])


def nesterov(rate: float | optax.Schedule, momentum: float, steps: int) -> mc.Solver:
    """Gradient descent with momentum."""
    return mc.descend(optax.sgd(rate, momentum, nesterov=True), steps)


def estimator(
    method: str, nudged: mc.Solver, *, beta: float, damping: float, products: int, rate: float
) -> mc.Estimator | None:
    """How a method of both experiments obtains its meta-gradient; None: it is none of them.

    Args:
        method: its name.
        nudged: solver of the nudged phases.
        beta: the strength of the nudge.
        damping: of the curvature, where learning that stops early leaves it indefinite.
        products: with the Hessian.
        rate: of the Neumann series.
    """
    rules: dict[str, mc.Estimator] = {
        # The rule as it stands in the paper: what is left of learning is divided by beta.
        "contrastive-plain": mc.Contrastive(beta, nudged=nudged),
        "contrastive-anchored": mc.Contrastive(
            beta, nudge="linear", nudged=nudged, damping=damping
        ),
        "t1t2": mc.Implicit("identity"),
        "cg": mc.Implicit("cg", products, damping=damping),
        "neumann": mc.Implicit("neumann", products, rate=rate),
        "tbptt": mc.Unrolled(truncate=products),
        "trajectory": mc.Trajectory(),
    }
    return rules.get(method)
