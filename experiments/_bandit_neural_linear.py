"""The baseline: a Bayesian linear regression of each arm on the features of a network."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from _bandit_play import Agent, Buffer
from jaxtyping import PyTree

from metacontrast import Data
from metacontrast.nets import mlp
from metacontrast.tasks._wheel import ARMS

Carry = tuple[PyTree, PyTree]  # weights and moments
PARTS = 4  # of the buffer, of which those are looked at that hold pulls


class Prior(NamedTuple):
    """InverseGamma(a, b) on the noise, normal weights of this precision; those published."""

    a: float = 12.0
    b: float = 30.0
    precision: float = 23.0


class Posterior(NamedTuple):
    """Of one arm: `w | s2 ~ N(mean, s2 cov)` and `s2 ~ InverseGamma(a, b)`."""

    mean: jax.Array
    cov: jax.Array
    a: jax.Array
    b: jax.Array


def posterior(prior: Prior, f: jax.Array, y: jax.Array, weight: jax.Array) -> Posterior:
    """Of the linear regression of `y` (n,) on features `f` (n, d), each row counted `weight` times.

    With `A = F'F + lambda`: mean `A^-1 F'y`, covariance `A^-1`, `a = a0 + n/2` and
    `b = b0 + (y'y - mean' A mean) / 2`.
    """
    weighted = weight[:, None] * f
    precision = weighted.T @ f + prior.precision * jnp.eye(f.shape[1], dtype=f.dtype)
    cov = jnp.linalg.inv(precision)
    mean = cov @ (weighted.T @ y)
    # The same as y'y - mean' A mean, but never negative by round-off.
    left = jnp.sum(weight * (y - f @ mean) ** 2) + prior.precision * jnp.sum(mean**2)
    return Posterior(mean, cov, prior.a + jnp.sum(weight) / 2, prior.b + left / 2)


def posteriors(prior: Prior, weights: PyTree, buffer: Buffer, unit: float) -> Posterior:
    """Of every arm, from what the network makes of all pulls; rewards are counted in units.

    A long game would spend most of its time on places of the buffer that are still empty.
    """

    def of_first(n: int) -> Posterior:
        x, y = jax.tree.map(lambda leaf: leaf[:n], buffer.pulls)
        f = features(weights, x)
        is_pulled = (y.arm[None] == jnp.arange(ARMS)[:, None]) & (jnp.arange(n) < buffer.n)[None]
        one = partial(posterior, prior, f, y.reward / unit)
        return jax.vmap(one)(is_pulled.astype(f.dtype))

    total = len(buffer.pulls.x)
    sizes = [-(-total * (part + 1) // PARTS) for part in range(PARTS)]
    fits = jnp.searchsorted(jnp.array(sizes), buffer.n)
    return jax.lax.switch(fits, [partial(of_first, n) for n in sizes])


def features(weights: PyTree, x: jax.Array) -> jax.Array:
    """What the network's head is given, and a constant."""
    for layer in weights.layers[:-1]:
        x = jax.nn.relu(x @ layer.weight.T + layer.bias[None])
    return jnp.concatenate([x, jnp.ones_like(x[:, :1])], axis=1)


def thompson(posteriors: Posterior, f: jax.Array, key: jax.Array) -> jax.Array:
    """The arms (n,) that pay most under weights drawn for each row of features `f` (n, d)."""
    for_noise, for_weights = jax.random.split(key)
    s2 = posteriors.b[None] / jax.random.gamma(for_noise, posteriors.a[None], (len(f), ARMS))
    # What an arm pays is all that is needed of its weights, and is normal too.
    mean = f @ posteriors.mean.T
    spread = jnp.einsum("nd,kde,ne->nk", f, posteriors.cov, f)
    normal = jax.random.normal(for_weights, mean.shape)
    return jnp.argmax(mean + jnp.sqrt(s2 * spread) * normal, axis=1)


def neural_linear(
    width: int, batch: int, updates: int, rate: float, prior: Prior, unit: float, every: int
) -> Agent:
    """NeuralLinear with Thompson sampling; RMSProp starts anew with each block.

    Departures: posteriors, like the network, are renewed with each block rather than each trial,
    since all pulls of a block are made at once; the regression has a constant.

    Args:
        width: of the network's two hidden layers.
        batch: pulls of an update of the network.
        updates: of the network, a block.
        rate: of RMSProp.
        prior: of the regressions.
        unit: what rewards are counted in.
        every: trials from one learning to the next.

    Reference: Riquelme, Tucker, Snoek, "Deep Bayesian bandits showdown", 2018.
    """
    net = mlp(2, width, 2, ARMS, jax.nn.relu)
    optimizer = optax.chain(optax.clip_by_global_norm(5.0), optax.rmsprop(rate, decay=0.5))

    def squares(weights: PyTree, data: Data) -> jax.Array:
        paid = jax.vmap(lambda x, arm: net.apply(weights, x)[arm])(data.x, data.y.arm)
        return jnp.sum(data.y.weight * (paid - data.y.reward / unit) ** 2) / jnp.sum(data.y.weight)

    def start(key: jax.Array) -> tuple[PyTree, Posterior]:
        n = width + 1
        empty = Posterior(jnp.zeros((ARMS, n)), jnp.zeros((ARMS, n, n)), *jnp.ones((2, ARMS)))
        return net.init(key), empty

    def act(state: tuple[PyTree, Posterior], x: jax.Array, key: jax.Array) -> jax.Array:
        weights, known = state
        return thompson(known, features(weights, x), key)

    def learn(
        state: tuple[PyTree, Posterior], buffer: Buffer, key: jax.Array
    ) -> tuple[PyTree, Posterior]:
        def step(
            carry: tuple[PyTree, PyTree], key: jax.Array
        ) -> tuple[tuple[PyTree, PyTree], None]:
            weights, moments = carry
            g = jax.grad(squares)(weights, buffer.batch(key, batch))
            changes, moments = optimizer.update(g, moments)
            return (optax.apply_updates(weights, changes), moments), None

        fresh = (state[0], optimizer.init(state[0]))
        (weights, _), _ = jax.lax.scan(step, fresh, jax.random.split(key, updates))
        return weights, posteriors(prior, weights, buffer, unit)

    return Agent(start, act, learn, every)
