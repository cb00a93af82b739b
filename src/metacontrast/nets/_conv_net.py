"""Convolutional networks for batches of images: LeNet-5, and the Conv4 of few-shot learning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .._problem import PyTree
from ._conv import Statistics, conv, kaiming, max_pool, normalise, over, statistics


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

    init: Callable[[jax.Array], PyTree]
    apply: Callable[..., jax.Array]
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


def conv4(
    filters: int | Sequence[int] = 64,
    *,
    strided: bool = False,
    channels: int = 1,
    size: int = 28,
    classes: int | None = None,
    norm: str | None = "batch",
    dtype: Any = None,
    lowering: str | None = None,
) -> ConvNet:
    """The four-layer network of few-shot learning, with a linear head or giving features.

    Four times: 3x3 convolution, batch normalisation, ReLU, and halving of height and width.

    Args:
        filters: of each layer: one number, or four.
        strided: halve by a stride of 2, as published for Omniglot by Finn et al. (2017), in place
            of 2x2 max-pooling after a stride of 1 (Vinyals et al., 2016). About four times cheaper.
        channels: of the images.
        size: height and width of the images, at least 16.
        classes: with a linear head that gives this many logits. Default: the features, flat.
        norm: "batch" (see `ConvNet`), or None.
        dtype: of the factors of all products, `jnp.bfloat16` say; weights, sums, statistics and
            outputs stay as they are. Default: as is.
        lowering: of the convolutions, see `conv`.

    Raises:
        ValueError: an unknown norm, images too small, or not four numbers of filters.

    Example:
        >>> net = conv4(strided=True, classes=20)
        >>> phi = net.init(jax.random.key(0))
        >>> net.apply(phi, jnp.zeros((5, 28, 28, 1))).shape
        (5, 20)
    """
    if norm not in ("batch", None):
        raise ValueError(f"norm: unknown {norm!r}; choose 'batch' or None.")
    if size < 16:
        raise ValueError(f"size: images must be at least 16 pixels wide, not {size}; enlarge them.")
    widths = [channels, *(4 * [filters] if isinstance(filters, int) else filters)]
    if len(widths) != 5:
        raise ValueError(f"filters: four layers have four numbers of them, not {filters!r}.")
    layers = [
        Layer(*pair, 3, 2 if strided else 1, 1, norm is not None, not strided)
        for pair in pairwise(widths)
    ]
    for _ in layers:
        size = (size + 1) // 2 if strided else size // 2
    head = [] if classes is None else [Layer(size * size * widths[-1], classes, relu=False)]
    return _net(layers + head, dtype, lowering)


def lenet5(
    classes: int = 10,
    channels: int = 3,
    *,
    batch_norm: bool = False,
    size: int = 32,
    dtype: Any = None,
    lowering: str | None = None,
) -> ConvNet:
    """LeNet-5 in its modern form: ReLU and max-pooling, and batch normalisation if asked for.

    5x5 convolutions with 6 and 16 filters, without padding, each followed by 2x2 max-pooling; then
    dense layers of 120, 84 and `classes` units. 62,458 weights for 32x32 colour images, 10 classes
    and batch normalisation.

    Args:
        classes: how many logits.
        channels: of the images.
        batch_norm: normalise every layer but the last, see `ConvNet`.
        size: height and width of the images, at least 16.
        dtype: of the factors of all products; see `conv4`.
        lowering: of the convolutions, see `conv`.

    Reference: LeCun, Bottou, Bengio, Haffner, 1998.

    Example:
        >>> net = lenet5()
        >>> net.apply(net.init(jax.random.key(0)), jnp.zeros((4, 32, 32, 3))).shape
        (4, 10)
    """
    if size < 16:
        raise ValueError(f"size: images must be at least 16 pixels wide, not {size}; enlarge them.")
    side = ((size - 4) // 2 - 4) // 2
    layers = [
        Layer(channels, 6, 5, norm=batch_norm, pool=True),
        Layer(6, 16, 5, norm=batch_norm, pool=True),
        Layer(side * side * 16, 120, norm=batch_norm),
        Layer(120, 84, norm=batch_norm),
        Layer(84, classes, relu=False),
    ]
    return _net(layers, dtype, lowering)


def _net(layers: Sequence[Layer], dtype: Any, lowering: str | None) -> ConvNet:
    convolve = partial(conv, dtype=dtype, lowering=lowering)

    def init(key: jax.Array) -> PyTree:
        keys = jax.random.split(key, len(layers))
        return [_drawn(k, layer) for k, layer in zip(keys, layers, strict=True)]

    def run(phi: PyTree, x: jax.Array, stats: Any) -> tuple[jax.Array, tuple[Statistics, ...]]:
        used: list[Statistics] = []
        for layer, p in zip(layers, phi, strict=True):
            if layer.size:
                x = convolve(x, p["w"], stride=layer.stride, padding=layer.padding)
            else:
                # A 1x1 convolution of 1x1 images: dtype and sums as in the other layers.
                x = convolve(x.reshape(len(x), 1, 1, -1), p["w"][None, None])[:, 0, 0]
            x = x + over(p["b"], x)
            if layer.norm:
                used.append(statistics(x) if stats is None else stats[len(used)])
                x = normalise(x, used[-1], p["gain"], p["shift"])
            x = jax.nn.relu(x) if layer.relu else x
            x = max_pool(x) if layer.pool else x
        return x.reshape(len(x), -1), tuple(used)

    return ConvNet(
        init,
        lambda phi, x, stats=None: run(phi, x, stats)[0],
        lambda phi, x: run(phi, x, None)[1],
    )


def _drawn(key: jax.Array, layer: Layer) -> dict[str, jax.Array]:
    square = (layer.size, layer.size) if layer.size else ()
    weights = {"w": kaiming(key, *square, layer.inputs, layer.outputs)}
    weights["b"] = jnp.zeros(layer.outputs)
    if layer.norm:
        weights |= {"gain": jnp.ones(layer.outputs), "shift": jnp.zeros(layer.outputs)}
    return weights
