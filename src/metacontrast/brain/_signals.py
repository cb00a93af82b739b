"""The broadcast signals: when the phases are said to end, and with which sign."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .._problem import PyTree

NOISE, TIMING = 2**32 - 2, 2**32 - 3  # folded into the task's key


def signals(
    free: int, nudged: int, jitter: int, noise: float, theta: PyTree, key: Any
) -> Callable[[Any], Any]:
    """`t -> sign` after t steps: -1 when the free phase is said to end, +1 when the nudged one is.

    0 at all other times. With `noise`, a tree of theta's structure: each synapse takes the sign
    for another size.

    Example:
        >>> sign = signals(free=3, nudged=2, jitter=0, noise=0.0, theta=0.0, key=None)
        >>> [float(sign(t)) for t in range(6)]
        [0.0, 0.0, 0.0, -1.0, 0.0, 1.0]
    """
    ends = jnp.array([free, free + nudged])
    if jitter:
        ends += jax.random.randint(jax.random.fold_in(key, TIMING), (2,), -jitter, jitter + 1)
    if not noise:
        return lambda t: 1.0 * (t == ends[1]) - (t == ends[0])
    leaves, structure = jax.tree.flatten(theta)
    keys = jax.random.split(jax.random.fold_in(key, NOISE), len(leaves))
    sizes = [
        1 + noise * jax.random.normal(k, (2, *leaf.shape), leaf.dtype)
        for k, leaf in zip(keys, leaves, strict=True)
    ]
    at = lambda t, s: jnp.where(t == ends[1], s[1], 0) - jnp.where(t == ends[0], s[0], 0)
    return lambda t: jax.tree.unflatten(structure, [at(t, s) for s in sizes])
