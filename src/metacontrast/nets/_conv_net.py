"""Convolutional networks for batches of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from .._precision import Precision
from .._types import Key, PyTree
from ._conv import (
    Lowering,
    Statistics,
    conv,
    kaiming,
    max_pool,
    normalise,
    normalise_once,
    over,
    statistics,
)


@runtime_checkable
class Apply(Protocol):
    """What `ConvNet.apply` is."""

    def __call__(
        self, phi: PyTree, x: jax.Array, stats: tuple[Statistics, ...] | None = None
    ) -> jax.Array:
        """The outputs for a batch of images."""


class ConvNet(NamedTuple):
    """A network for batches of images, normalised by the batch or by given statistics.

    Attributes:
        init: `key -> phi`, drawn as published: Kaiming uniform, biases zero, gains one.
        apply: `(phi, x, stats=None) -> y`, for images `x` (n, height, width, channels). Batch
            normalisation is by the statistics of `x` itself unless `stats` are given. A query set
            given as one batch is then judged *transductively*: what is said of one image depends on
            the others, and on which classes they are of.
        statistics: `(phi, x) -> stats`, of each normalised layer. For a verdict on each query image
            by itself, pass those of the support set, or of training images, which are the same
            for every task: `apply(phi, query, statistics(phi, support))`.
    """

    init: Callable[[Key], PyTree]
    apply: Apply
    statistics: Callable[[PyTree, jax.Array], tuple[Statistics, ...]]


class Layer(NamedTuple):
    """A convolution (`size` > 0) or a dense layer (0), and what follows it."""

    inputs: int
    outputs: int
    size: int = 0
    stride: int = 1
    padding: int = 0
    norm: bool = False
    pool: bool = False
    relu: bool = True


def stacked(layers: Sequence[Layer], precision: Precision, lowering: Lowering | None) -> ConvNet:
    """The network of these layers, one after the other."""
    convolve = partial(conv, precision=precision, lowering=lowering)

    def init(key: Key) -> PyTree:
        keys = jax.random.split(key, len(layers))
        return [_draw(k, layer) for k, layer in zip(keys, layers, strict=True)]

    def run(
        phi: PyTree, x: jax.Array, stats: tuple[Statistics, ...] | None
    ) -> tuple[jax.Array, tuple[Statistics, ...]]:
        used: list[Statistics] = []
        for layer, p in zip(layers, phi, strict=True):
            if layer.size:
                x = convolve(x, p["w"], stride=layer.stride, padding=layer.padding)
            else:
                # A 1x1 convolution of 1x1 images: factors and sums as in the other layers.
                x = convolve(x.reshape(len(x), 1, 1, -1), p["w"][None, None])[:, 0, 0]
            plain, x = x, x + over(p["b"], x)
            if layer.norm:
                used.append(statistics(x) if stats is None else stats[len(used)])
                if lowering == "reverse" and stats is None:
                    x = normalise_once(plain, p["b"], p["gain"], p["shift"])
                else:
                    x = normalise(x, used[-1], p["gain"], p["shift"])
            x = jax.nn.relu(x) if layer.relu else x
            x = max_pool(x) if layer.pool else x
        return x.reshape(len(x), -1), tuple(used)

    return ConvNet(
        init,
        lambda phi, x, stats=None: run(phi, x, stats)[0],
        lambda phi, x: run(phi, x, None)[1],
    )


def _draw(key: Key, layer: Layer) -> dict[str, jax.Array]:
    square = (layer.size, layer.size) if layer.size else ()
    weights = {"w": kaiming(key, *square, layer.inputs, layer.outputs)}
    weights["b"] = jnp.zeros(layer.outputs)
    if layer.norm:
        weights |= {"gain": jnp.ones(layer.outputs), "shift": jnp.zeros(layer.outputs)}
    return weights
