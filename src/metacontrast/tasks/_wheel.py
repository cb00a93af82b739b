"""The wheel bandit: few pulls tell what is safe, rare ones what pays."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._must import Count
from .._problem import Data, Task
from .._types import Key

Delta: TypeAlias = Float[Array, ""] | float  # the radius of the wheel
ARMS = 5
SAFE, BEST, RICH = 1.0, 1.2, 50.0  # arms 0-3; arm 4; the arm of its quadrant, outside
NOISE, RICH_NOISE = 0.05, 0.01


class Pulled(NamedTuple):
    """What was tried on each context: `arm` (n,), the `reward` (n,) it paid, and a `weight` (n,).

    The weight says how much a pull counts: 0 for the empty places of a buffer.
    """

    arm: jax.Array
    reward: jax.Array
    weight: jax.Array


def contexts(key: jax.Array, n: int) -> jax.Array:
    """`n` points (n, 2), uniform in the unit disc."""
    radius, angle = jax.random.uniform(key, (2, n))
    turn = 2 * jnp.pi * angle
    return jnp.sqrt(radius)[:, None] * jnp.stack([jnp.cos(turn), jnp.sin(turn)], axis=1)


def mean_rewards(x: jax.Array, delta: Delta) -> jax.Array:
    """The expected reward of each arm (n, 5) on contexts `x` (n, 2)."""
    quadrant = jnp.where(x[:, 1] > 0, 0, 2) + jnp.where(x[:, 0] > 0, 0, 1)
    pays = (jnp.linalg.norm(x, axis=1) > delta)[:, None] & (
        quadrant[:, None] == jnp.arange(ARMS)[None]
    )
    return jnp.where(pays, RICH, jnp.where(jnp.arange(ARMS) == ARMS - 1, BEST, SAFE)[None])


def rewards(x: jax.Array, arm: jax.Array, delta: Delta, noise: jax.Array) -> jax.Array:
    """What `arm` (n,) pays on `x` (n, 2), given standard normal `noise` (n,)."""
    mean = jnp.take_along_axis(mean_rewards(x, delta), arm[:, None], axis=1)[:, 0]
    return mean + jnp.where(mean == RICH, RICH_NOISE, NOISE) * noise


def regrets(x: jax.Array, arm: jax.Array, delta: Delta) -> jax.Array:
    """What `arm` (n,) is expected to pay less than the best arm does on `x` (n, 2)."""
    means = mean_rewards(x, delta)
    return jnp.max(means, axis=1) - jnp.take_along_axis(means, arm[:, None], axis=1)[:, 0]


def uniform_regret(delta: Delta) -> Delta:
    """The expected regret of a uniformly random arm, a trial.

    Inside four arms in five lose 0.2; outside three lose 49, and one 48.8:
    `delta^2 0.8 0.2 + (1 - delta^2) (0.6 49 + 0.2 48.8)`.

    Example:
        >>> round(uniform_regret(0.5), 2), round(uniform_regret(0.99), 2)
        (29.41, 0.94)
    """
    inside = 0.8 * (BEST - SAFE)
    outside = 0.6 * (RICH - SAFE) + 0.2 * (RICH - BEST)
    return delta**2 * inside + (1 - delta**2) * outside


def wheel(
    key: Key, *, pulls: Count = 512, queries: Count = 50, fewest: Count | None = None
) -> Task:
    """One wheel to learn offline, from uniformly random pulls: `delta ~ U[0, 1]`.

    Contexts are uniform in the unit disc. Within delta of the centre arms 0 to 3 pay N(1, 0.05^2);
    outside, the one whose quadrant the context is in pays N(50, 0.01^2). Arm 4 pays N(1.2, 0.05^2).

    Args:
        key: draws the wheel and the pulls.
        pulls: to learn from, at least 1.
        queries: to be judged on, at least 1.
        fewest: if given, only the first `n` pulls count, `n` between `fewest` and `pulls`, log
            uniform: one must learn from a few as from many.

    Returns:
        A `Task` whose x are contexts (n, 2), and whose y are `Pulled`.

    Raises:
        ValueError: for numbers of pulls that cannot be drawn.

    Reference: Riquelme, Tucker, Snoek, "Deep Bayesian bandits showdown", 2018; offline tasks:
    Garnelo et al., "Neural processes", 2018.

    Example:
        >>> task = wheel(jax.random.key(0), pulls=64)
        >>> task.train.x.shape, task.train.y.arm.shape, task.test.y.reward.shape
        ((64, 2), (64,), (50,))
    """
    if fewest is not None and fewest > pulls:
        raise ValueError(f"fewest: must be from 1 to pulls={pulls}, not {fewest}.")
    keys, n = jax.random.split(key, 5), pulls + queries
    delta, x = jax.random.uniform(keys[0]), contexts(keys[1], n)
    arm = jax.random.randint(keys[2], (n,), 0, ARMS)
    reward = rewards(x, arm, delta, jax.random.normal(keys[3], (n,)))
    low = jnp.log(float(pulls if fewest is None else fewest))
    most = jax.random.uniform(keys[4], minval=low, maxval=jnp.log(pulls + 0.999))
    counted = pulls if fewest is None else jnp.floor(jnp.exp(most))
    rows = jnp.arange(n)
    weight = ((rows < counted) | (rows >= pulls)).astype(x.dtype)
    logged = Data(x, Pulled(arm, reward, weight))
    return Task(
        *(
            jax.tree.map(lambda leaf, p=part: leaf[p], logged)
            for part in (slice(None, pulls), slice(pulls, None))
        )
    )
