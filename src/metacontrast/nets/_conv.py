"""Convolution in the two forms that are fast on one kind of machine each, and what goes with it."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from .._must import Count, Index
from .._precision import Precision, factors, lax_precision, matmul

Lowering: TypeAlias = Literal["patches", "reverse", "lax"]
Images: TypeAlias = Float[Array, "n height width channels"]
Rows: TypeAlias = Float[Array, "*rows inner"]
Matrix: TypeAlias = Float[Array, "inner columns"]


def conv(
    x: Images,
    w: Float[Array, "k k channels filters"],
    *,
    stride: Count = 1,
    padding: Index = 0,
    precision: Precision = "highest",
    lowering: Lowering | None = None,
) -> Images:
    """Convolution of images with square kernels, as a product of matrices or as XLA's own.

    Inside a loop XLA's convolution runs far below the speed of a product of matrices: gathering
    each output's patch and multiplying once is several times faster on CPUs, and 1.6 to 5 times on
    an H200, most where each task has kernels of its own (`benchmarks/conv_lowering.py`). Both give
    the same values and gradients to within round-off.

    Args:
        x: images (n, height, width, channels).
        w: kernels (k, k, channels, filters).
        stride: from one output to the next.
        padding: rows and columns of zeros on each side.
        precision: of the factors: "highest", as they are; "tensorfloat32" or "bfloat16", rounded
            where the machine is faster for it. Sums stay in the type of `x` and `w`.
        lowering: "patches" or "lax"; default: "patches" on CPUs and GPUs, as measured there, and
            "lax" elsewhere. Or "reverse": patches, with a faster gradient by kernels whose
            k k channels are fewer than their filters, as of a first layer on grey images (and, in
            a network, of batch normalisation). Such a layer can be differentiated any number of
            times, but not in forward mode first (`jax.jvp`, `jax.jacfwd`).

    Raises:
        ValueError: an unknown lowering or precision.

    Example:
        >>> x, w = jnp.ones((2, 28, 28, 3)), jnp.ones((3, 3, 3, 8))
        >>> conv(x, w, stride=2, padding=1).shape
        (2, 14, 14, 8)
    """
    form = lowering or ("patches" if jax.default_backend() in ("cpu", "gpu") else "lax")
    out_dtype = jnp.result_type(x, w)
    x, w = factors(precision, x, w)
    if form != "lax":
        x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
        rows, flat = _patches(x, w.shape[0], stride), w.reshape(-1, w.shape[-1])
        narrow = form == "reverse" and flat.shape[0] < flat.shape[1]
        return (_narrow if narrow else _matmul)(precision, out_dtype, rows, flat)
    return jax.lax.conv_general_dilated(
        x,
        w,
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=lax_precision(precision),
    ).astype(out_dtype)


def _matmul(precision: Precision, out_dtype: DTypeLike, rows: Rows, w: Matrix) -> Rows:
    return matmul(rows, w, precision, out_dtype)


# `w`'s gradient is a product of `rows` and `ct`, one of them transposed. JAX transposes `ct`, and
# XLA then walks all that `ct` is computed from across memory; here it is `rows`, the narrow one.
_narrow = jax.custom_vjp(_matmul, nondiff_argnums=(0, 1))


def _narrow_forward(
    precision: Precision, out_dtype: DTypeLike, rows: Rows, w: Matrix
) -> tuple[Rows, tuple[Rows, Matrix]]:
    return _matmul(precision, out_dtype, rows, w), (rows, w)


def _narrow_backward(
    precision: Precision, out_dtype: DTypeLike, residuals: tuple[Rows, Matrix], ct: Rows
) -> tuple[Rows, Matrix]:
    rows, w = residuals
    ct = ct.astype(rows.dtype)
    # The barrier keeps XLA from turning it round again.
    across = jax.lax.optimization_barrier(rows.reshape(-1, len(w)).T)
    by_w = _matmul(precision, out_dtype, across, ct.reshape(-1, w.shape[1]))
    return _matmul(precision, out_dtype, ct, w.T).astype(rows.dtype), by_w.astype(w.dtype)


_narrow.defvjp(_narrow_forward, _narrow_backward)


def _patches(x: Images, k: int, stride: int) -> Images:
    """The k x k patch below each output, as (n, height, width, k k channels)."""
    # First along rows, then along columns, which copies whole rows of a patch: with few channels
    # about half the time of copying pixel by pixel.
    for axis in (2, 1):
        last = stride * ((x.shape[axis] - k) // stride)
        shifted = [jax.lax.slice_in_dim(x, i, i + last + 1, stride, axis) for i in range(k)]
        x = jnp.concatenate(shifted, axis=-1)
    return x


def max_pool(x: Images) -> Images:
    """The largest of each 2 x 2 block of pixels; an odd last row or column is left out."""
    n, height, width, channels = x.shape
    blocks = x[:, : height // 2 * 2, : width // 2 * 2]
    return blocks.reshape(n, height // 2, 2, width // 2, 2, channels).max((2, 4))


class Statistics(NamedTuple):
    """The mean and variance of each channel, by which batch normalisation normalises."""

    mean: jax.Array
    var: jax.Array


def statistics(x: jax.Array) -> Statistics:
    """Of each channel, the last axis, over all others."""
    axes = tuple(range(x.ndim - 1))
    return Statistics(jnp.mean(x, axes), jnp.var(x, axes))


def normalise(x: jax.Array, by: Statistics, gain: jax.Array, shift: jax.Array) -> jax.Array:
    """Batch normalisation (Ioffe and Szegedy, 2015) by given statistics, then gain and shift."""
    scale = gain / jnp.sqrt(by.var + 1e-5)
    return x * over(scale, x) + over(shift - scale * by.mean, x)


@jax.custom_vjp
def normalise_once(x: jax.Array, bias: jax.Array, gain: jax.Array, shift: jax.Array) -> jax.Array:
    """`normalise` of `x + bias` by its own statistics, of which the bias is no part.

    Differentiated by hand: backwards the images are walked through twice, where what JAX derives
    sums over all of them four times a channel, two of these sums being zero. Not in forward mode
    first.
    """
    return _normalise_forward(x, bias, gain, shift)[0]


def _normalise_forward(
    x: jax.Array, bias: jax.Array, gain: jax.Array, shift: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, Statistics, jax.Array]]:
    by = statistics(x)
    return normalise(x, by, gain, shift), (x, by, gain)


def _normalise_backward(
    residuals: tuple[jax.Array, Statistics, jax.Array], ct: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    x, by, gain = residuals
    axes = tuple(range(x.ndim - 1))
    rate = 1 / jnp.sqrt(by.var + 1e-5)
    unit = over(rate, x) * (x - over(by.mean, x))
    by_shift, by_gain = jnp.sum(ct, axes), jnp.sum(ct * unit, axes)
    n = x.size // x.shape[-1]
    by_x = over(gain * rate, x) * (ct - over(by_shift / n, x) - unit * over(by_gain / n, x))
    return by_x, jnp.zeros_like(by_shift), by_gain, by_shift


normalise_once.defvjp(_normalise_forward, _normalise_backward)


def over(channels: jax.Array, x: jax.Array) -> jax.Array:
    """One number a channel, in a shape that broadcasts against `x`."""
    return channels.reshape((1,) * (x.ndim - 1) + (-1,))


def kaiming(key: jax.Array, *shape: int) -> jax.Array:
    """Weights drawn uniformly within sqrt(6 / fan-in) (He, Zhang, Ren, Sun, 2015)."""
    return jax.nn.initializers.he_uniform()(key, shape)
