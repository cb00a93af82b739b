"""What the reweight experiment learns: a language model of weighted sources."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import metacontrast as mc

from ..nets import Net, transformer
from ..tasks._text import ALPHABET, SOURCES, Texts


@dataclass(frozen=True)
class Settings:
    """What a run depends on besides its method and seed."""

    steps: int = 200  # meta-steps
    beta: float = 1.0
    inner_steps: int = 4  # of each phase, a meta-step
    outer_rate: float = 0.05
    rate: float = 2e-3  # of Adam, inner
    decay: float = 0.0  # of the l2 penalty on all of phi
    batch: int = 2  # sequences of each source, an inner step
    trusted: int = 8  # sequences of the target, an inner step of the nudged phase
    length: int = 64
    width: int = 96
    depth: int = 2
    heads: int = 4
    chars: int = 200_000
    final_steps: int = 600
    final_batch: int = 16


class Sequences(NamedTuple):
    """A task: of each source (sources, n, length + 1), and of the trusted text (m, length + 1)."""

    sources: jax.Array
    trusted: jax.Array


def network(settings: Settings) -> Net:
    """The language model."""
    return transformer(
        len(ALPHABET), settings.length, settings.width, settings.depth, settings.heads
    )


def errors(net: Net, phi: Any, sequences: jax.Array) -> jax.Array:
    """The mean cross-entropy of a next character, in nats, of each of sequences (n, length + 1)."""
    logits = jax.vmap(net.apply, (None, 0))(phi, sequences[:, :-1])
    found = optax.softmax_cross_entropy_with_integer_labels(logits, sequences[:, 1:])
    return jnp.mean(found, axis=1)


def problem(net: Net, first: Any, settings: Settings) -> mc.Problem:
    """Theta are the sources' logits; a task holds sequences of each source, and trusted ones.

        L_in = sum_s softmax(theta)_s L_s(phi) + decay |phi|^2,   L_out = L_trusted(phi)

    Solvers see a few of the sequences a step, the same in every phase; the contrast sees all.
    """

    def inner(phi: Any, theta: jax.Array, task: Sequences) -> jax.Array:
        found = errors(net, phi, jnp.concatenate(task.sources))
        loss = jax.nn.softmax(theta) @ jnp.mean(found.reshape(len(theta), -1), axis=1)
        if settings.decay:
            loss = loss + settings.decay * optax.tree.norm(phi, squared=True)
        return loss

    def sample(task: Sequences, key: jax.Array) -> Sequences:
        keys = jax.random.split(key)
        some = jax.random.randint(keys[0], (settings.batch,), 0, task.sources.shape[1])
        few = jax.random.randint(keys[1], (settings.trusted,), 0, task.trusted.shape[0])
        return Sequences(task.sources[:, some], task.trusted[few])

    return mc.Problem(
        init=lambda theta, task: first,
        inner=inner,
        outer=lambda phi, theta, task: jnp.mean(errors(net, phi, task.trusted)),
        sample=sample,
    )


def windows(key: jax.Array, text: jax.Array, n: int, length: int) -> jax.Array:
    """`n` sequences (n, length + 1) from anywhere in the text."""
    at = jax.random.randint(key, (n,), 0, text.shape[0] - length)
    return text[at[:, None] + jnp.arange(length + 1)[None]].astype(jnp.int32)


def drawer(made: Texts, settings: Settings) -> Any:
    """`key -> task`: twice what an inner step sees of each source, and of the trusted text."""
    sources, trusted = jnp.asarray(made.train), jnp.asarray(made.trusted)
    cut = partial(windows, length=settings.length)

    def draw(key: jax.Array) -> Sequences:
        keys = jax.random.split(key, len(SOURCES) + 1)
        drawn = jax.vmap(lambda k, text: cut(k, text, 2 * settings.batch))(keys[1:], sources)
        return Sequences(drawn, cut(keys[0], trusted, 2 * settings.trusted))

    return draw
