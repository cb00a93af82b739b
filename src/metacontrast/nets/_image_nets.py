"""LeNet-5, and the Conv4 of few-shot learning."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal, TypeAlias

from .._must import Count, Must
from .._precision import Precision
from ._conv import Lowering
from ._conv_net import ConvNet, Layer, stacked

Side: TypeAlias = Annotated[
    int, Must("at least 16 pixels", lambda n: n >= 16, "enlarge the images")
]


def conv4(
    filters: Count | Sequence[Count] = 64,
    *,
    strided: bool = False,
    channels: Count = 1,
    size: Side = 28,
    classes: Count | None = None,
    norm: Literal["batch"] | None = "batch",
    precision: Precision = "highest",
    lowering: Lowering | None = None,
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
        precision: of the factors of all products, see `conv`; weights, sums, statistics and
            outputs stay as they are.
        lowering: of the convolutions, see `conv`.

    Raises:
        ValueError: an unknown norm or precision, images too small, or not four numbers of filters.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> net = conv4(strided=True, classes=20)
        >>> phi = net.init(jax.random.key(0))
        >>> net.apply(phi, jnp.zeros((5, 28, 28, 1))).shape
        (5, 20)
    """
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
    return stacked(layers + head, precision, lowering)


def lenet5(
    classes: Count = 10,
    channels: Count = 3,
    *,
    batch_norm: bool = False,
    size: Side = 32,
    precision: Precision = "highest",
    lowering: Lowering | None = None,
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
        precision: of the factors of all products; see `conv4`.
        lowering: of the convolutions, see `conv`.

    Reference: LeCun, Bottou, Bengio, Haffner, 1998.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> net = lenet5()
        >>> net.apply(net.init(jax.random.key(0)), jnp.zeros((4, 32, 32, 3))).shape
        (4, 10)
    """
    side = ((size - 4) // 2 - 4) // 2
    layers = [
        Layer(channels, 6, 5, norm=batch_norm, pool=True),
        Layer(6, 16, 5, norm=batch_norm, pool=True),
        Layer(side * side * 16, 120, norm=batch_norm),
        Layer(120, 84, norm=batch_norm),
        Layer(84, classes, relu=False),
    ]
    return stacked(layers, precision, lowering)
