"""What the benchmark of influence trains: a network and a transformer, on digits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import metacontrast as mc

CLASSES, SIDE = 10, 8
EXAMPLES, QUERIES, BATCH, WRONG = 500, 20, 50, 0.1
HIDDEN = 32  # of the network
WIDTH, HEADS, WIDER = 16, 2, 32  # of the transformer: tokens, heads, and its perceptron

Weights = dict[str, jax.Array]
Logits = Callable[[Weights, jax.Array], jax.Array]
LINEAR = {
    "network": {"in": (64, HIDDEN), "mid": (HIDDEN, HIDDEN), "out": (HIDDEN, CLASSES)},
    "transformer": {
        "in": (SIDE, WIDTH), "q": (WIDTH, WIDTH), "k": (WIDTH, WIDTH), "v": (WIDTH, WIDTH),
        "o": (WIDTH, WIDTH), "up": (WIDTH, WIDER), "down": (WIDER, WIDTH),
        "out": (SIDE * WIDTH, CLASSES),
    },
}  # fmt: skip
NORMS = ("before attention", "before perceptron", "last")


class Learner(NamedTuple):
    """A network and how it is trained, by Adam."""

    name: str
    logits: Logits  # of a batch of images (n, 64)
    steps: int
    rate: float
    fresh: bool  # whether fresh runs are predicted too, at four times the price


def first(name: str, key: jax.Array) -> Weights:
    """Weights where training begins, and biases, by the names of `LINEAR`."""
    shapes = LINEAR[name]
    keys = dict(zip(shapes, jax.random.split(key, len(shapes)), strict=True))
    phi = {n: jax.random.normal(keys[n], s) / np.sqrt(s[0]) for n, s in shapes.items()}
    phi |= {f"{n} bias": jnp.zeros(s[1]) for n, s in shapes.items()}
    if name == "transformer":
        phi["places"] = 0.1 * jax.random.normal(jax.random.fold_in(key, 1), (SIDE, WIDTH))
        phi |= {n: jnp.ones(WIDTH) for n in NORMS}
        phi |= {f"{n} bias": jnp.zeros(WIDTH) for n in NORMS}
    return phi


def _linear(phi: Weights, name: str, x: jax.Array) -> jax.Array:
    return x @ phi[name] + phi[f"{name} bias"]


def network(phi: Weights, x: jax.Array) -> jax.Array:
    """Two hidden layers, tanh."""
    for name in ("in", "mid"):
        x = jnp.tanh(_linear(phi, name, x))
    return _linear(phi, "out", x)


def transformer(phi: Weights, x: jax.Array) -> jax.Array:
    """One layer, normalised first; the rows of an image are its tokens."""
    scaled = lambda n, h: jax.nn.standardize(h, axis=-1, epsilon=1e-5) * phi[n] + phi[f"{n} bias"]
    heads = lambda h: h.reshape(*h.shape[:2], HEADS, WIDTH // HEADS)
    h = _linear(phi, "in", x.reshape(-1, SIDE, SIDE)) + phi["places"]
    normal = scaled("before attention", h)
    q, k, v = (heads(_linear(phi, name, normal)) for name in "qkv")
    attention = jax.nn.softmax(jnp.einsum("nthd,nshd->nhts", q, k) / (WIDTH / HEADS) ** 0.5)
    mixed = jnp.einsum("nhts,nshd->nthd", attention, v).reshape(h.shape)
    h = h + _linear(phi, "o", mixed)
    hidden = jax.nn.gelu(_linear(phi, "up", scaled("before perceptron", h)))
    h = scaled("last", h + _linear(phi, "down", hidden))
    return _linear(phi, "out", h.reshape(len(h), -1))


LEARNERS = [
    Learner("network", network, 300, 3e-3, fresh=True),
    Learner("transformer", transformer, 300, 1e-3, fresh=False),
]


class Images(NamedTuple):
    """Training images, of which a tenth is labelled at random, and queries."""

    x: Any
    y: Any
    query_x: Any
    query_y: Any


def digits(seed: int) -> Images:
    """Of scikit-learn."""
    from sklearn.datasets import load_digits

    draw = np.random.default_rng(seed)
    images = load_digits()
    order = draw.permutation(len(images.data))[: EXAMPLES + QUERIES]
    x, y = (images.data[order] / 16).astype(np.float32), images.target[order].astype(np.int32)
    wrong = draw.random(EXAMPLES) < WRONG
    labels = np.where(wrong, draw.integers(0, CLASSES, EXAMPLES), y[:EXAMPLES]).astype(np.int32)
    return Images(x[:EXAMPLES], labels, x[EXAMPLES:], y[EXAMPLES:])


def cross_entropy(logits: jax.Array, y: jax.Array) -> jax.Array:
    """Of each example."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, y)


def problem(learner: Learner) -> tuple[mc.Problem, mc.Solver]:
    """theta is where training begins; the task holds x, y and the weights w."""

    def inner(phi: Weights, theta: Weights, z: dict[str, Any]) -> jax.Array:
        return jnp.mean(z["w"] * cross_entropy(learner.logits(phi, z["x"]), z["y"]))

    def batch(z: dict[str, Any], key: jax.Array) -> dict[str, Any]:
        drawn = jax.random.randint(key, (BATCH,), 0, EXAMPLES)
        return {name: leaf[drawn] for name, leaf in z.items()}

    zero = lambda phi, theta, z: jnp.zeros(())
    optimizer = optax.adam(learner.rate, eps_root=1e-6)
    return (
        mc.Problem(lambda theta, z: theta, inner, zero, sample=batch),
        mc.descend(optimizer, learner.steps),
    )
