"""Numbers as spikes of a population of neurons, each tuned to its own range."""

from __future__ import annotations

from typing import Annotated

import jax
import jax.numpy as jnp

from .._must import Count, Must, Positive
from .._types import Key


def population(
    key: Key,
    x: jax.Array,
    low: float,
    high: float,
    *,
    neurons: Annotated[int, Must("at least 2", lambda n: n >= 2)] = 100,
    steps: Count = 20,
    variance: Positive = 2e-4,
) -> jax.Array:
    """Spikes that tell a number: Bernoulli, more likely the closer it is to a neuron's centre.

        P(spike of i at t) = exp(-(u - c_i)^2 / (2 variance)),   u = (x - low) / (high - low),

    with centres c_i evenly spaced from 0 to 1.

    Args:
        key: draws the spikes; the same key gives the same spikes.
        x: numbers (n, 1).
        low: the number that the first neuron prefers.
        high: the number that the last neuron prefers; above `low`.
        neurons: at least 2.
        steps: T, at least 1.
        variance: of the tuning curves, in units of u^2; positive.

    Returns:
        0 or 1, of shape (n, steps, neurons).

    Raises:
        ValueError: x of another shape, or a number out of its range.

    Reference: Zucchet et al., 2022, recurrent spiking network.

    Example:
        >>> spikes = population(jax.random.key(0), jnp.array([[0.0], [1.0]]), 0.0, 1.0)
        >>> spikes.shape, float(spikes[1, :, -1].mean())
        ((2, 20, 100), 1.0)
    """
    if x.ndim != 2 or x.shape[1] != 1:
        raise ValueError(f"x: must have shape (n, 1), not {x.shape}.")
    if not high > low:
        raise ValueError(f"high: must be above low={low}, not {high}.")
    u = (x - low) / (high - low)
    likely = jnp.exp(-((u - jnp.linspace(0.0, 1.0, neurons)[None]) ** 2) / (2 * variance))
    shape = (len(x), steps, neurons)
    return jax.random.bernoulli(key, likely[:, None, :], shape).astype(likely.dtype)
