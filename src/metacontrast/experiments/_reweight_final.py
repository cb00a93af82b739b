"""A language model trained once on a mixture of sources."""

from __future__ import annotations

import time
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ..nets import Net
from ..tasks._text import SOURCES, Texts
from ._reweight_problem import Settings, errors, windows

EVERY, VALID, TEST = 50, 100, 500  # steps between validations; sequences


class Trained(NamedTuple):
    """The model's weights, its errors (steps, validation loss) on the way, and the seconds."""

    phi: Any
    curve: list[tuple[int, float]]
    seconds: float


def train(
    net: Net, first: Any, mixture: Any, made: Texts, settings: Settings, seed: int
) -> Trained:
    """Adam, its rate falling on a cosine; each sequence is of a source drawn by the mixture."""
    rate = optax.cosine_decay_schedule(settings.rate, settings.final_steps, 0.05)
    optimizer = optax.adam(rate)
    text, chances = jnp.asarray(made.train), jnp.log(jnp.asarray(mixture, jnp.float32))
    cut = partial(windows, n=1, length=settings.length)

    def step(state: Any, key: jax.Array) -> tuple[Any, None]:
        (phi, moments), (choosing, cutting) = state, jax.random.split(key)
        n = settings.final_batch
        source = jax.random.categorical(choosing, chances, shape=(n,))
        keys = jax.random.split(cutting, n)
        batch = jax.vmap(lambda k, s: cut(k, text[s])[0])(keys, source)
        grad = jax.grad(lambda phi: jnp.mean(errors(net, phi, batch)))(phi)
        updates, moments = optimizer.update(grad, moments, phi)
        return (optax.apply_updates(phi, updates), moments), None

    some = jax.jit(lambda state, keys: jax.lax.scan(step, state, keys)[0], donate_argnums=0)
    judge, began = judged(net, made.valid, settings, VALID), time.perf_counter()
    # A copy, since the steps donate their buffers.
    state: Any = (jax.tree.map(jnp.copy, first), optimizer.init(first))
    keys, curve = jax.random.split(jax.random.key(seed), settings.final_steps), []
    for t in range(0, settings.final_steps, EVERY):
        state = some(state, keys[t : t + EVERY])
        done = min(t + EVERY, settings.final_steps)
        curve.append((done, float(np.mean(judge(state[0])))))
    return Trained(state[0], curve, time.perf_counter() - began)


def judged(net: Net, text: np.ndarray, settings: Settings, n: int) -> Any:
    """`phi -> its errors` on `n` sequences of a text, evenly spaced."""
    at = np.linspace(0, len(text) - settings.length - 1, n).astype(int)
    sequences = jnp.asarray(text[at[:, None] + np.arange(settings.length + 1)].astype(np.int32))
    found = jax.jit(partial(errors, net, sequences=sequences))
    return lambda phi: np.asarray(found(phi))


def known(name: str) -> np.ndarray:
    """The mixtures that are not learned."""
    uniform = np.full(len(SOURCES), 1 / len(SOURCES))
    return {"uniform": uniform, "clean": np.eye(len(SOURCES))[0]}[name]
