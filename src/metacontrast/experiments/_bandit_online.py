"""An agent at play: it acts on a block of contexts, remembers what was paid, and learns from it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import metacontrast as mc

from ..tasks._wheel import ARMS, Pulled, contexts, regrets, rewards

FIRST = 2 * ARMS  # pulls before anything is learned: two of each arm, in turn


class Agent(NamedTuple):
    """A player of contextual bandits.

    Attributes:
        start: `key -> state`.
        act: `(state, x (n, 2), key) -> arms (n,)`.
        learn: `(state, buffer, key) -> state`.
        every: trials from one learning to the next.
    """

    start: Callable[[Any], Any]
    act: Callable[[Any, jax.Array, jax.Array], jax.Array]
    learn: Callable[[Any, Any, jax.Array], Any]
    every: int


class Buffer(NamedTuple):
    """All pulls so far: the first `n` rows."""

    pulls: mc.Data
    n: jax.Array

    def batch(self, key: jax.Array, size: int) -> mc.Data:
        """All pulls, or `size` of them at random, weighted to stand for all."""
        rows = jnp.arange(size)
        few = self.n <= size
        chosen = jnp.where(few, rows, jax.random.randint(key, (size,), 0, self.n))
        x, y = jax.tree.map(lambda leaf: leaf[chosen], self.pulls)
        return mc.Data(x, y._replace(weight=jnp.where(few, rows < self.n, self.n / size)))

    def add(self, at: Any, x: jax.Array, arm: jax.Array, reward: jax.Array) -> Buffer:
        """With these pulls from row `at` on."""
        new = mc.Data(x, Pulled(arm, reward, jnp.ones_like(reward)))
        put = lambda old, rows: jax.lax.dynamic_update_slice_in_dim(old, rows, at, 0)
        return Buffer(jax.tree.map(put, self.pulls, new), at + len(x))


def played(agent: Agent, delta: Any, key: jax.Array, trials: int) -> tuple[Any, jax.Array]:
    """The state after a game and the expected regret of each trial.

    Two pulls of each arm come first, then `trials` by the agent.

    Contexts and noise are of the key alone, whatever the agent: all agents of one (delta, key) see
    the same ones.
    """
    total = FIRST + trials
    seen, noisy, own = jax.random.split(key, 3)
    x, noise = contexts(seen, total), jax.random.normal(noisy, (total,))
    arms = jnp.arange(FIRST) % ARMS
    empty = mc.Data(
        jnp.zeros((total, 2)), Pulled(jnp.zeros(total, int), jnp.zeros(total), jnp.zeros(total))
    )
    first = rewards(x[:FIRST], arms, delta, noise[:FIRST])
    buffer = Buffer(empty, jnp.array(0)).add(0, x[:FIRST], arms, first)
    starting, learning, acting = jax.random.split(own, 3)
    state = agent.learn(agent.start(starting), buffer, learning)

    def block(carry: tuple[Any, Buffer], k: jax.Array) -> tuple[tuple[Any, Buffer], jax.Array]:
        state, buffer = carry
        act, learn = jax.random.split(jax.random.fold_in(acting, k))
        at = FIRST + k * agent.every
        now = jax.lax.dynamic_slice_in_dim(x, at, agent.every)
        arm = agent.act(state, now, act)
        luck = jax.lax.dynamic_slice_in_dim(noise, at, agent.every)
        buffer = buffer.add(at, now, arm, rewards(now, arm, delta, luck))
        return (agent.learn(state, buffer, learn), buffer), regrets(now, arm, delta)

    (state, _), each = jax.lax.scan(block, (state, buffer), jnp.arange(trials // agent.every))
    return state, jnp.concatenate([regrets(x[:FIRST], arms, delta), each.ravel()])


def plays(agent: Agent, deltas: jax.Array, keys: jax.Array, trials: int) -> jax.Array:
    """The regrets of `played` for each delta and key (deltas, keys, trials).

    One game after the other: on CPUs products of single matrices are faster than those of stacks.
    `trials` are a multiple of `agent.every`.
    """
    one = lambda pair: played(agent, pair[0], pair[1], trials)[1]
    pairs = (jnp.repeat(deltas, len(keys)), jnp.tile(keys, len(deltas)))
    each = jax.jit(partial(jax.lax.map, one))(pairs)
    return each.reshape(len(deltas), len(keys), -1)
