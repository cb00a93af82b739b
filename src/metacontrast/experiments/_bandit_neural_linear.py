"""The baseline: a Bayesian linear regression of each arm on the features of a network."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from .._problem import Data
from ..nets import mlp
from ..tasks._wheel import ARMS
from ._bandit_online import Agent, Buffer

# As published: the prior InverseGamma(a0, b0) on the noise, precision lambda on the weights.
A0, B0, PRECISION = 12.0, 30.0, 23.0
STEPS, BATCH = 50, 512
NET = mlp(2, 100, 2, ARMS, jax.nn.relu)
OPTIMIZER = optax.chain(optax.clip_by_global_norm(5.0), optax.rmsprop(0.01, decay=0.5))


class Posterior(NamedTuple):
    """Of one arm: `w | s2 ~ N(mean, s2 cov)` and `s2 ~ InverseGamma(a, b)`."""

    mean: jax.Array
    cov: jax.Array
    a: jax.Array
    b: jax.Array


def posterior(f: jax.Array, y: jax.Array, weight: jax.Array) -> Posterior:
    """Of the linear regression of `y` (n,) on features `f` (n, d), each row counted `weight` times.

    With `A = F'F + lambda`: mean `A^-1 F'y`, covariance `A^-1`, `a = a0 + n/2` and
    `b = b0 + (y'y - mean' A mean) / 2`.
    """
    weighted = weight[:, None] * f
    precision = weighted.T @ f + PRECISION * jnp.eye(f.shape[1], dtype=f.dtype)
    cov = jnp.linalg.inv(precision)
    mean = cov @ (weighted.T @ y)
    # The same as y'y - mean' A mean, but never negative by round-off.
    left = jnp.sum(weight * (y - f @ mean) ** 2) + PRECISION * jnp.sum(mean**2)
    return Posterior(mean, cov, A0 + jnp.sum(weight) / 2, B0 + left / 2)


def _features(weights: Any, x: jax.Array) -> jax.Array:
    """What the network's head sees, and a constant."""
    body = weights.layers[:-1]
    for layer in body:
        x = jax.nn.relu(x @ layer.weight.T + layer.bias[None])
    return jnp.concatenate([x, jnp.ones_like(x[:, :1])], axis=1)


def _squares(weights: Any, data: Data) -> jax.Array:
    paid = jax.vmap(lambda x, arm: NET.apply(weights, x)[arm])(data.x, data.y.arm)
    return jnp.sum(data.y.weight * (paid - data.y.reward) ** 2) / jnp.sum(data.y.weight)


def neural_linear(every: int) -> Agent:
    """NeuralLinear with Thompson sampling, in the published settings.

    Departures: posteriors, like the network, are renewed with each block rather than each trial,
    since all pulls of a block are made at once; the regression has a constant.

    Reference: Riquelme, Tucker, Snoek, "Deep Bayesian bandits showdown", 2018.
    """

    def known(weights: Any, buffer: Buffer) -> Posterior:
        (x, y), rows = buffer.pulls, jnp.arange(len(buffer.pulls.x))
        f = _features(weights, x)
        taken = (y.arm[None] == jnp.arange(ARMS)[:, None]) & (rows < buffer.n)[None]
        return jax.vmap(lambda weight: posterior(f, y.reward, weight.astype(f.dtype)))(taken)

    def start(key: jax.Array) -> Any:
        empty = Posterior(jnp.zeros((ARMS, 101)), jnp.zeros((ARMS, 101, 101)), *jnp.ones((2, ARMS)))
        return NET.init(key), empty

    def act(state: Any, x: jax.Array, key: jax.Array) -> jax.Array:
        weights, found = state
        f = _features(weights, x)
        noise, weighing = jax.random.split(key)
        s2 = found.b[None] / jax.random.gamma(noise, found.a[None], (len(x), ARMS))
        # What an arm pays is all that is needed of its weights, and is normal too.
        mean = f @ found.mean.T
        spread = jnp.einsum("nd,kde,ne->nk", f, found.cov, f)
        drawn = jax.random.normal(weighing, mean.shape)
        return jnp.argmax(mean + jnp.sqrt(s2 * spread) * drawn, axis=1)

    def learn(state: Any, buffer: Buffer, key: jax.Array) -> Any:
        def step(carry: Any, key: jax.Array) -> Any:
            weights, moments = carry
            g = jax.grad(_squares)(weights, buffer.batch(key, BATCH))
            updates, moments = OPTIMIZER.update(g, moments)
            return (optax.apply_updates(weights, updates), moments), None

        fresh = (state[0], OPTIMIZER.init(state[0]))
        (weights, _), _ = jax.lax.scan(step, fresh, jax.random.split(key, STEPS))
        return weights, known(weights, buffer)

    return Agent(start, act, learn, every)
