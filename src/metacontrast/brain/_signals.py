"""The broadcast signals: when the phases are said to end, and with which sign."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp

from .._types import Key, PyTree, Scalar, Step

# After t steps: one for all synapses, or a tree of theta's structure.
Signal: TypeAlias = Callable[[Step], PyTree]


def signals(
    free: int, nudged: int, jitter: int, noise: float, theta: PyTree, key: Key | None
) -> Signal:
    """`t -> sign` after t steps: -1 when the free phase is said to end, +1 when the nudged one is.

    0 at all other times. With `noise`, a tree of theta's structure: each synapse takes the sign
    for another size.

    Raises:
        ValueError: noise or jitter without a key.

    Example:
        >>> sign = signals(free=3, nudged=2, jitter=0, noise=0.0, theta=0.0, key=None)
        >>> [float(sign(t)) for t in range(6)]
        [0.0, 0.0, 0.0, -1.0, 0.0, 1.0]
    """
    ends = jnp.array([free, free + nudged])
    if key is None:
        if jitter or noise:
            raise ValueError("key: noise and jitter are drawn; pass a key after the task.")
        return lambda t: _sign(t, ends, 1.0, 1.0)
    timing, sizing = jax.random.split(key)
    if jitter:
        ends += jax.random.randint(timing, (2,), -jitter, jitter + 1)
    if not noise:
        return lambda t: _sign(t, ends, 1.0, 1.0)
    leaves, structure = jax.tree.flatten(theta)
    keys = jax.random.split(sizing, len(leaves))
    sizes = [
        1 + noise * jax.random.normal(k, (2, *leaf.shape), leaf.dtype)
        for k, leaf in zip(keys, leaves, strict=True)
    ]
    return lambda t: jax.tree.unflatten(structure, [_sign(t, ends, *size) for size in sizes])


def _sign(t: Step, ends: jax.Array, first: Scalar | float, second: Scalar | float) -> jax.Array:
    return jnp.where(t == ends[1], second, 0.0) - jnp.where(t == ends[0], first, 0.0)
