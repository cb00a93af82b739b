"""The problem of the experiment `reweight`: how much to learn from each source of text."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

import metacontrast as mc
from metacontrast.nets import Net
from metacontrast.tasks import texts

SOURCES, SYMBOLS = 7, 28  # of `texts`


class Sequences(NamedTuple):
    """A task: of each source (sources, n, length + 1), and of the trusted text (m, length + 1)."""

    sources: jax.Array
    trusted: jax.Array


class Sizes(NamedTuple):
    """Of each source and of the trusted text, the sequences that an inner step sees."""

    batch: int
    trusted: int
    length: int = 32


def problem(net: Net, sizes: Sizes, decay: float = 0.0) -> mc.Problem:
    """Theta are the sources' logits, and the outer loss that of the trusted text."""

    def errors(phi: PyTree, sequences: jax.Array) -> jax.Array:
        logits = jax.vmap(partial(net.apply, phi))(sequences[:, :-1])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, sequences[:, 1:])
        return jnp.mean(losses, axis=1)

    def inner(phi: PyTree, theta: jax.Array, task: Sequences) -> jax.Array:
        losses = errors(phi, jnp.concatenate(task.sources)).reshape(len(theta), -1)
        penalty = decay * optax.tree.norm(phi, squared=True) if decay else 0.0
        return jax.nn.softmax(theta) @ jnp.mean(losses, axis=1) + penalty

    def sample(task: Sequences, key: jax.Array) -> Sequences:
        keys = jax.random.split(key)
        some = jax.random.randint(keys[0], (sizes.batch,), 0, task.sources.shape[1])
        few = jax.random.randint(keys[1], (sizes.trusted,), 0, task.trusted.shape[0])
        return Sequences(task.sources[:, some], task.trusted[few])

    return mc.Problem(
        init=lambda theta, task: net.init(jax.random.key(0)),
        inner=inner,
        outer=lambda phi, theta, task: jnp.mean(errors(phi, task.trusted)),
        sample=sample,
    )


def task_sampler(sizes: Sizes, chars: int = 20_000) -> Callable[[jax.Array], Sequences]:
    """`key -> task`: twice what an inner step sees."""
    data = texts(0, chars)
    sources, trusted = jnp.asarray(data.train), jnp.asarray(data.trusted)

    def windows(key: jax.Array, text: jax.Array, n: int) -> jax.Array:
        at = jax.random.randint(key, (n,), 0, text.shape[0] - sizes.length)
        return text[at[:, None] + jnp.arange(sizes.length + 1)[None]].astype(jnp.int32)

    def sample_task(key: jax.Array) -> Sequences:
        keys = jax.random.split(key, SOURCES + 1)
        of_each = jax.vmap(lambda key, text: windows(key, text, 2 * sizes.batch))
        return Sequences(of_each(keys[1:], sources), windows(keys[0], trusted, 2 * sizes.trusted))

    return sample_task
