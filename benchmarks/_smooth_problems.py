"""Two smooth problems of the experiment `theory`, whose exact meta-gradient is known."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

import metacontrast as mc


class SmoothProblem(NamedTuple):
    """A problem, where its meta-gradient is asked for, and the learning rate that suits it."""

    problem: mc.Problem
    theta: PyTree
    task: PyTree
    rate: float


def digits(seed: int = 0, examples: int = 300, judges: int = 300) -> SmoothProblem:
    """Logistic regression on scikit-learn's digits: theta is one log lambda a pixel."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(x))[: examples + judges]
    x, y = jnp.asarray(x[order] / 16 - 0.3), jnp.asarray(y[order])
    halves = (slice(examples), slice(examples, None))
    task = mc.Task(*(mc.Data(x[half], y[half]) for half in halves))

    def error(phi: PyTree, data: mc.Data) -> jax.Array:
        logits = data.x @ phi["w"] + phi["b"][None]
        right = jnp.take_along_axis(logits, data.y[:, None], axis=1)[:, 0]
        return jnp.mean(jax.nn.logsumexp(logits, axis=1) - right)

    def inner(phi: PyTree, theta: jax.Array, task: mc.Task) -> jax.Array:
        strengths = {"w": theta[:, None], "b": jnp.log(1e-2)}
        return error(phi, task.train) + mc.Synapse(log_lam=strengths).pull(phi)

    problem = mc.Problem(
        init=lambda theta, task: {"w": jnp.zeros((64, 10)), "b": jnp.zeros(10)},
        inner=inner,
        outer=lambda phi, theta, task: error(phi, task.test),
    )
    return SmoothProblem(problem, jnp.full(64, jnp.log(1e-2)), task, 0.5)


def network(seed: int = 0, units: int = 8) -> SmoothProblem:
    """A layer of tanh units learns a sine from 10 points; every weight is a complex synapse."""
    rng = np.random.default_rng(seed)
    omega = {"w": rng.normal(size=units), "b": rng.normal(size=units)}
    omega["v"] = rng.normal(size=units) / np.sqrt(units)
    x = rng.uniform(-3, 3, (2, 10))
    task = mc.Task(*(mc.Data(points, np.sin(points)) for points in x))

    def error(phi: PyTree, data: mc.Data) -> jax.Array:
        hidden = jnp.tanh(data.x[:, None] * phi["w"][None] + phi["b"][None])
        return jnp.mean((hidden @ phi["v"] - data.y) ** 2)

    problem = mc.Problem(
        init=lambda theta, task: theta.omega,
        inner=lambda phi, theta, task: error(phi, task.train) + theta.pull(phi),
        outer=lambda phi, theta, task: error(phi, task.test),
    )
    theta = mc.Synapse(omega, jax.tree.map(lambda w: np.full(w.shape, -3.0), omega))
    theta, task = jax.tree.map(jnp.asarray, (theta, task))
    return SmoothProblem(problem, theta, task, 0.1)
