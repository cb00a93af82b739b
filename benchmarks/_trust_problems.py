"""Random problems, learners and rules on which `diagnose` is judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

import metacontrast as mc

FEATURES, HIDDEN = 5, 12


@dataclass(frozen=True)
class Configuration:
    """What is drawn, each by itself, from one seed."""

    seed: int
    model: str  # quadratic, logistic, tanh, relu
    optimizer: str  # sgd, momentum, adam
    batch: bool  # half of the examples a step
    dropout: bool
    batch_norm: bool
    bfloat16: bool  # the network computes in it
    meta: str  # weights of the examples, decay of each weight, synapse
    steps: int
    rate: float
    rule: str  # forward, symmetric, control, linear, damped
    beta: float
    damping: float  # of the rule "damped"
    decay: float
    examples: int
    noise: float


class Example(NamedTuple):
    """The arguments of `diagnose`, but for the problem's solver and rule."""

    problem: mc.Problem
    solver: mc.Solver
    rule: mc.Contrastive
    theta: PyTree
    z: PyTree
    key: jax.Array


def draw(seed: int) -> Configuration:
    """The configuration of a seed."""
    rng = np.random.default_rng(seed)
    between = lambda low, high: float(10 ** rng.uniform(low, high))
    choice = lambda *names: str(rng.choice(names))
    chance = lambda p: bool(rng.random() < p)
    model, optimizer = (
        choice("quadratic", "logistic", "tanh", "relu"),
        choice("sgd", "momentum", "adam"),
    )
    is_net = model in ("tanh", "relu")
    return Configuration(
        seed=seed,
        model=model,
        optimizer=optimizer,
        batch=chance(0.4),
        dropout=chance(0.3) and is_net,
        batch_norm=chance(0.3) and is_net,
        bfloat16=chance(0.2),
        meta=choice("weights", "decay", "synapse"),
        steps=int(between(1.3, 2.4)),
        rate=between(-2.7, -1.3) if optimizer == "adam" else between(-2.0, -0.5),
        rule=choice("forward", "symmetric", "control", "linear", "damped"),
        beta=between(-3.0, 0.3),
        damping=between(-1.5, 0.0),
        decay=between(-3.0, -0.3),
        examples=int(rng.choice([10, 30, 60])),
        noise=float(rng.choice([0.1, 0.5])),
    )


def build(c: Configuration) -> Example:
    """The problem of a configuration, half of whose examples are learned from."""
    rng = np.random.default_rng([c.seed, 1])
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    n = c.examples
    x = normal(2 * n, FEATURES)
    y = x @ normal(FEATURES) + c.noise * normal(2 * n)
    y = jnp.sign(y) if c.model == "logistic" else y / jnp.std(y)
    phi, forward = _network(c, normal) if c.model in ("tanh", "relu") else _line(c)

    def errors(output: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.logaddexp(0.0, -y * output) if c.model == "logistic" else (output - y) ** 2

    def inner(phi: PyTree, theta: PyTree, z: PyTree, state: PyTree = None) -> PyTree:
        rows, key = z
        output, state = forward(phi, x[rows], state, key)
        each = errors(output, y[rows])
        if c.meta == "weights":
            each = 2 * jax.nn.sigmoid(theta[rows]) * each
        return _with_state(c, jnp.mean(each) + penalty(phi, theta), state)

    def penalty(phi: PyTree, theta: PyTree) -> jax.Array:
        if c.meta == "synapse":
            return theta.pull(phi)
        decay = jax.tree.map(lambda p: jnp.log(c.decay), phi) if c.meta == "weights" else theta
        return mc.Synapse(None, decay).pull(phi)

    def outer(phi: PyTree, theta: PyTree, z: PyTree, state: PyTree = None) -> jax.Array:
        return jnp.mean(errors(forward(phi, x[n:], state, None)[0], y[n:]))

    def sample(z: PyTree, key: jax.Array) -> PyTree:
        choosing, dropping = jax.random.split(key)
        some = jax.random.choice(choosing, n, (n // 2,), replace=False)
        return (some if c.batch else z[0]), dropping

    decay = jax.tree.map(lambda p: jnp.log(c.decay) + 0.5 * normal(*p.shape), phi)
    near = jax.tree.map(lambda p: p + 0.1 * normal(*p.shape), phi)
    thetas = {
        "weights": normal(n),
        "decay": decay,
        "synapse": mc.Synapse(near, jnp.log(c.decay)),
    }
    problem = mc.Problem(
        init=lambda theta, z: theta.omega if c.meta == "synapse" else phi,
        inner=inner,
        outer=outer,
        sample=sample if c.batch or c.dropout else None,
        state=(lambda theta, z: (jnp.zeros(HIDDEN), jnp.ones(HIDDEN))) if c.batch_norm else None,
    )
    # With eps_root, since the square root of a gradient of exactly 0 has no derivative, and what
    # the estimates are held against differentiates it.
    optimizers = {
        "sgd": optax.sgd(c.rate),
        "momentum": optax.sgd(c.rate, 0.9),
        "adam": optax.adam(c.rate, eps_root=1e-12),
    }
    linear: dict[str, object] = {"scheme": "symmetric", "nudge": "linear"}
    settings: dict[str, dict[str, object]] = {
        "forward": {},
        "symmetric": {"scheme": "symmetric"},
        "control": {"control": True},
        "linear": linear,
        "damped": {**linear, "damping": c.damping},
    }
    rule = mc.Contrastive(c.beta, **settings[c.rule])  # type: ignore[arg-type]
    solver = mc.descend(optimizers[c.optimizer], c.steps)
    task = jnp.arange(n), jax.random.key(c.seed)
    return Example(problem, solver, rule, thetas[c.meta], task, jax.random.key(c.seed + 1))


def _with_state(c: Configuration, value: jax.Array, state: PyTree) -> PyTree:
    return (value, state) if c.batch_norm else value


Forward = Callable[[PyTree, jax.Array, PyTree, jax.Array | None], tuple[jax.Array, PyTree]]


def _line(c: Configuration) -> tuple[PyTree, Forward]:
    low = jnp.bfloat16 if c.bfloat16 else jnp.float32

    def forward(phi: PyTree, x: jax.Array, state: PyTree, _: jax.Array | None) -> PyTree:
        return (x.astype(low) @ phi.astype(low)).astype(jnp.float32), state

    return jnp.zeros(FEATURES), forward


def _network(c: Configuration, normal: Callable[..., jax.Array]) -> tuple[PyTree, Forward]:
    """One hidden layer; without a key it is a network that is used, not one that learns."""
    low = jnp.bfloat16 if c.bfloat16 else jnp.float32
    bend = jnp.tanh if c.model == "tanh" else jax.nn.relu
    phi = {
        "first": normal(FEATURES, HIDDEN) / FEATURES**0.5,
        "shift": jnp.zeros(HIDDEN),
        "last": normal(HIDDEN) / HIDDEN**0.5,
    }

    def forward(phi: PyTree, x: jax.Array, state: PyTree, key: jax.Array | None) -> PyTree:
        phi = jax.tree.map(lambda leaf: leaf.astype(low), phi)
        h = x.astype(low) @ phi["first"] + phi["shift"]
        if c.batch_norm:
            h = h.astype(jnp.float32)
            mean, variance = state if key is None else (jnp.mean(h, 0), jnp.var(h, 0))
            h = ((h - mean) / jnp.sqrt(variance + 1e-3)).astype(low)
            old, new = state, (mean, variance)
            state = jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, old, new)
        h = bend(h)
        if c.dropout and key is not None:
            h = h * jax.random.bernoulli(key, 0.8, h.shape).astype(low) / jnp.asarray(0.8, low)
        return (h @ phi["last"]).astype(jnp.float32), state

    return phi, forward
