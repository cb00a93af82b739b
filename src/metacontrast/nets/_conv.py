"""Convolution in the two forms that are fast on one kind of machine each, and what goes with it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

LOWERINGS = ("patches", "lax")


def conv(
    x: jax.Array,
    w: jax.Array,
    *,
    stride: int = 1,
    padding: int = 0,
    dtype: Any = None,
    lowering: str | None = None,
) -> jax.Array:
    """Convolution of images with square kernels, as a product of matrices or as XLA's own.

    On CPUs XLA's convolution runs, inside a loop, far below the speed of a product of matrices;
    gathering each output's patch and multiplying once is several times faster there. On GPUs and
    TPUs it is the other way round. Both give the same values and gradients to within round-off.

    Args:
        x: images (n, height, width, channels).
        w: kernels (k, k, channels, filters).
        stride: from one output to the next.
        padding: rows and columns of zeros on each side.
        dtype: of the factors, `jnp.bfloat16` say; sums stay in the type of `x` and `w`. Default:
            as is.
        lowering: "patches" or "lax". Default: "patches" on CPUs, "lax" elsewhere.

    Raises:
        ValueError: an unknown lowering.

    Example:
        >>> x, w = jnp.ones((2, 28, 28, 3)), jnp.ones((3, 3, 3, 8))
        >>> conv(x, w, stride=2, padding=1).shape
        (2, 14, 14, 8)
    """
    chosen = lowering or ("patches" if jax.default_backend() == "cpu" else "lax")
    if chosen not in LOWERINGS:
        raise ValueError(f"lowering: unknown {lowering!r}; choose one of {', '.join(LOWERINGS)}.")
    kept = jnp.result_type(x, w)
    x, w = x.astype(dtype or kept), w.astype(dtype or kept)
    if chosen == "patches":
        x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
        rows = _patches(x, w.shape[0], stride)
        return jnp.matmul(rows, w.reshape(-1, w.shape[-1]), preferred_element_type=kept)
    return jax.lax.conv_general_dilated(
        x,
        w,
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    ).astype(kept)


def _patches(x: jax.Array, k: int, stride: int) -> jax.Array:
    """The k x k patch below each output, as (n, height, width, k k channels)."""
    height, width = ((size - k) // stride + 1 for size in x.shape[1:3])
    shifted = [
        x[:, i : i + stride * (height - 1) + 1 : stride, j : j + stride * (width - 1) + 1 : stride]
        for i in range(k)
        for j in range(k)
    ]
    return jnp.concatenate(shifted, axis=-1)


def max_pool(x: jax.Array) -> jax.Array:
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


def over(channels: jax.Array, x: jax.Array) -> jax.Array:
    """One number a channel, in a shape that broadcasts against `x`."""
    return channels.reshape((1,) * (x.ndim - 1) + (-1,))


def kaiming(key: jax.Array, *shape: int) -> jax.Array:
    """Weights drawn uniformly within sqrt(6 / fan-in) (He, Zhang, Ren, Sun, 2015)."""
    return jax.nn.initializers.he_uniform()(key, shape)
