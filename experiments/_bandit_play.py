"""An agent at play: it acts on a block of contexts, remembers what was paid, and learns from it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

import metacontrast as mc
from metacontrast.tasks._wheel import ARMS, Pulled, contexts, regrets, rewards

FIRST = 2 * ARMS  # pulls before anything is learned: two of each arm, in turn


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

    def add(self, at: jax.Array | int, x: jax.Array, arm: jax.Array, reward: jax.Array) -> Buffer:
        """With these pulls from row `at` on."""
        new = mc.Data(x, Pulled(arm, reward, jnp.ones_like(reward)))
        put = lambda old, rows: jax.lax.dynamic_update_slice_in_dim(old, rows, at, 0)
        return Buffer(jax.tree.map(put, self.pulls, new), jnp.asarray(at + len(x)))


class Agent(NamedTuple):
    """A player of contextual bandits.

    Attributes:
        start: `key -> state`.
        act: `(state, x (n, 2), key) -> arms (n,)`.
        learn: `(state, buffer, key) -> state`.
        every: trials from one learning to the next.
    """

    start: Callable[[jax.Array], PyTree]
    act: Callable[[PyTree, jax.Array, jax.Array], jax.Array]
    learn: Callable[[PyTree, Buffer, jax.Array], PyTree]
    every: int


def uniform(every: int) -> Agent:
    """The player that takes any arm, whatever it was paid."""
    return Agent(
        start=lambda key: jnp.zeros(()),
        act=lambda state, x, key: jax.random.randint(key, (len(x),), 0, ARMS),
        learn=lambda state, buffer, key: state,
        every=every,
    )


def play(
    agent: Agent, delta: jax.Array | float, key: jax.Array, trials: int
) -> tuple[PyTree, jax.Array]:
    """The state after a game and the expected regret of each trial.

    Two pulls of each arm come first, then `trials` by the agent.

    Contexts and noise are of the key alone, whatever the agent: all agents of one (delta, key) see
    the same ones.
    """
    total = FIRST + trials
    for_contexts, for_noise, own = jax.random.split(key, 3)
    x, noise = contexts(for_contexts, total), jax.random.normal(for_noise, (total,))
    arms = jnp.arange(FIRST) % ARMS
    empty = mc.Data(
        jnp.zeros((total, 2)), Pulled(jnp.zeros(total, int), jnp.zeros(total), jnp.zeros(total))
    )
    first = rewards(x[:FIRST], arms, delta, noise[:FIRST])
    buffer = Buffer(empty, jnp.array(0)).add(0, x[:FIRST], arms, first)
    to_start, to_learn, to_act = jax.random.split(own, 3)
    state = agent.learn(agent.start(to_start), buffer, to_learn)

    def block(
        carry: tuple[PyTree, Buffer], k: jax.Array
    ) -> tuple[tuple[PyTree, Buffer], jax.Array]:
        state, buffer = carry
        act, learn = jax.random.split(jax.random.fold_in(to_act, k))
        at = FIRST + k * agent.every
        now = jax.lax.dynamic_slice_in_dim(x, at, agent.every)
        arm = agent.act(state, now, act)
        luck = jax.lax.dynamic_slice_in_dim(noise, at, agent.every)
        buffer = buffer.add(at, now, arm, rewards(now, arm, delta, luck))
        return (agent.learn(state, buffer, learn), buffer), regrets(now, arm, delta)

    (state, _), each = jax.lax.scan(block, (state, buffer), jnp.arange(trials // agent.every))
    return state, jnp.concatenate([regrets(x[:FIRST], arms, delta), each.ravel()])


def play_all(agent: Agent, deltas: jax.Array, keys: jax.Array, trials: int) -> jax.Array:
    """The regrets of `play` for each delta and key (deltas, keys, trials).

    One game after the other: on CPUs products of single matrices are faster than those of stacks.
    `trials` are a multiple of `agent.every`.
    """
    one = lambda pair: play(agent, pair[0], pair[1], trials)[1]
    pairs = (jnp.repeat(deltas, len(keys)), jnp.tile(keys, len(deltas)))
    each = jax.jit(partial(jax.lax.map, one))(pairs)
    return each.reshape(len(deltas), len(keys), -1)
