"""Few-shot sine regression."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from .._must import Count
from .._problem import Data, Task
from .._types import Key

AMPLITUDE = (0.1, 5.0)
PHASE = (0.0, jnp.pi)
X = (-5.0, 5.0)


def sine(key: Key, *, shots: Count = 10, queries: Count = 10) -> Task:
    """One sine to learn from a few points: `y = A sin(x + p)`.

    `A ~ U[0.1, 5]`, `p ~ U[0, pi]`, `x ~ U[-5, 5]`, without noise. Predicting zero has an
    expected squared error of `E[A^2] E[sin^2] = 4.3`.

    Args:
        key: draws the task and its points.
        shots: points to learn from, at least 1.
        queries: points to be judged on, at least 1.

    Returns:
        A `Task` whose x and y have shapes (shots, 1) and (queries, 1).

    Reference: Finn, Abbeel, Levine, 2017; with the settings of Zucchet et al., 2022.

    Example:
        >>> task = sine(jax.random.key(0), shots=10, queries=100)
        >>> task.train.x.shape, task.test.y.shape
        ((10, 1), (100, 1))
    """
    a, p, points = jax.random.split(key, 3)
    amplitude = jax.random.uniform(a, minval=AMPLITUDE[0], maxval=AMPLITUDE[1])
    phase = jax.random.uniform(p, minval=PHASE[0], maxval=PHASE[1])
    x = jax.random.uniform(points, (shots + queries, 1), minval=X[0], maxval=X[1])
    y = amplitude * jnp.sin(x + phase)
    return Task(Data(x[:shots], y[:shots]), Data(x[shots:], y[shots:]))
