"""A language model, trained once on a mixture of sources of text."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

from metacontrast.nets import Net

Judge = Callable[[PyTree], np.ndarray]  # phi -> the error of each sequence


def errors(net: Net, phi: PyTree, sequences: jax.Array) -> jax.Array:
    """The mean cross-entropy of a next character, in nats, of each of sequences (n, length + 1)."""
    logits = jax.vmap(net.apply, (None, 0))(phi, sequences[:, :-1])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, sequences[:, 1:])
    return jnp.mean(losses, axis=1)


def windows(key: jax.Array, text: jax.Array, n: int, length: int) -> jax.Array:
    """`n` sequences (n, length + 1) from anywhere in the text."""
    at = jax.random.randint(key, (n,), 0, text.shape[0] - length)
    return text[at[:, None] + jnp.arange(length + 1)[None]].astype(jnp.int32)


def judge_of(net: Net, text: np.ndarray, n: int, length: int) -> Judge:
    """`phi -> its errors` on `n` sequences of a text, evenly spaced."""
    at = np.linspace(0, len(text) - length - 1, n).astype(int)
    sequences = jnp.asarray(text[at[:, None] + np.arange(length + 1)].astype(np.int32))
    compiled = jax.jit(partial(errors, net, sequences=sequences))
    return lambda phi: np.asarray(compiled(phi))


class Training(NamedTuple):
    """How the model is trained: by Adam, its rate falling on a cosine."""

    steps: int
    batch: int  # sequences of a step
    length: int  # of a sequence
    rate: float
    log_every: int  # steps


class Trained(NamedTuple):
    """The model's weights, its errors (steps, validation loss) on the way, and the seconds."""

    phi: PyTree
    curve: list[tuple[int, float]]
    seconds: float


def train(
    net: Net,
    first: PyTree,
    sources: np.ndarray,
    mixture: np.ndarray,
    judge: Judge,
    training: Training,
    seed: int,
) -> Trained:
    """Train on sources (n, chars): each sequence is of one that is drawn by the mixture (n,)."""
    steps, n, length, rate, log_every = training
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, steps, 0.05))
    text, chances = jnp.asarray(sources), jnp.log(jnp.asarray(mixture, jnp.float32))
    State = tuple[PyTree, optax.OptState]

    def step(state: State, key: jax.Array) -> tuple[State, None]:
        (phi, moments), (of_source, of_window) = state, jax.random.split(key)
        source = jax.random.categorical(of_source, chances, shape=(n,))
        keys = jax.random.split(of_window, n)
        batch = jax.vmap(lambda k, s: windows(k, text[s], 1, length)[0])(keys, source)
        grad = jax.grad(lambda phi: jnp.mean(errors(net, phi, batch)))(phi)
        updates, moments = optimizer.update(grad, moments, phi)
        return (optax.apply_updates(phi, updates), moments), None

    some = jax.jit(lambda state, keys: jax.lax.scan(step, state, keys)[0], donate_argnums=0)
    began = time.perf_counter()
    # A copy, since the steps donate their buffers.
    state: State = (jax.tree.map(jnp.copy, first), optimizer.init(first))
    keys, curve = jax.random.split(jax.random.key(seed), steps), []
    for t in range(0, steps, log_every):
        state = some(state, keys[t : t + log_every])
        curve.append((min(t + log_every, steps), float(np.mean(judge(state[0])))))
    return Trained(state[0], curve, time.perf_counter() - began)
