"""The three problems on which the theory is measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

import metacontrast as mc


class Case(NamedTuple):
    """A problem, and where its meta-gradient is asked for."""

    problem: mc.Problem
    theta: PyTree
    task: PyTree


def quadratic(seed: int, n: int = 20) -> Case:
    """A complex synapse between two random paraboloids of `n` dimensions.

    `phi_beta` has its pole at beta = -1.
    """
    rng = np.random.default_rng(seed)
    h, a = (m @ m.T / n + 0.5 * np.eye(n) for m in rng.normal(size=(2, n, n)))
    theta = mc.Synapse(rng.normal(size=n), rng.uniform(-1, 1, n))
    whole = h + 2 * np.diag(np.exp(theta.log_lam))
    a /= np.linalg.eigvals(np.linalg.solve(whole, a)).real.max()
    bowl = lambda x, matrix: 0.5 * x @ matrix @ x
    problem = mc.Problem(
        init=lambda theta, task: theta.omega,
        inner=lambda phi, theta, task: bowl(phi - task["train"], h) + theta.pull(phi),
        outer=lambda phi, theta, task: bowl(phi - task["test"], a),
    )
    task = {"train": rng.normal(size=n), "test": rng.normal(size=n)}
    return Case(problem, *jax.tree.map(jnp.asarray, (theta, task)))


def digits(seed: int, n: int = 300) -> Case:
    """Logistic regression on scikit-learn's digits: theta is one log lambda a pixel.

    `n` are learned from, and as many are the judges.

    Raises:
        ValueError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ValueError(
            "method: digits needs scikit-learn; pip install 'metacontrast[sklearn]', or choose "
            "another --method."
        ) from error
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(x))[: 2 * n]
    x, y = jnp.asarray(x[order] / 16 - 0.3), jnp.asarray(y[order])
    task = mc.Task(mc.Data(x[:n], y[:n]), mc.Data(x[n:], y[n:]))

    def loss(phi: PyTree, data: mc.Data) -> jax.Array:
        logits = data.x @ phi["w"] + phi["b"][None]
        right = jnp.take_along_axis(logits, data.y[:, None], axis=1)[:, 0]
        return jnp.mean(jax.nn.logsumexp(logits, axis=1) - right)  # analytic

    def inner(phi: PyTree, theta: jax.Array, task: mc.Task) -> jax.Array:
        strengths = {"w": theta[:, None], "b": jnp.log(1e-2)}
        return loss(phi, task.train) + mc.Synapse(log_lam=strengths).pull(phi)

    problem = mc.Problem(
        init=lambda theta, task: {"w": jnp.zeros((64, 10)), "b": jnp.zeros(10)},
        inner=inner,
        outer=lambda phi, theta, task: loss(phi, task.test),
    )
    return Case(problem, jnp.full(64, jnp.log(1e-2)), task)


def network(seed: int, n: int = 8) -> Case:
    """A network of `n` tanh units learns a sine from 10 points; each weight a complex synapse."""
    rng = np.random.default_rng(seed)
    omega = {"w": rng.normal(size=n), "b": rng.normal(size=n)}
    omega["v"] = rng.normal(size=n) / np.sqrt(n)
    x = rng.uniform(-3, 3, (2, 10))
    task = mc.Task(mc.Data(x[0], np.sin(x[0])), mc.Data(x[1], np.sin(x[1])))

    def loss(phi: PyTree, data: mc.Data) -> jax.Array:
        hidden = jnp.tanh(data.x[:, None] * phi["w"][None] + phi["b"][None])
        return jnp.mean((hidden @ phi["v"] - data.y) ** 2)

    problem = mc.Problem(
        init=lambda theta, task: theta.omega,
        inner=lambda phi, theta, task: loss(phi, task.train) + theta.pull(phi),
        outer=lambda phi, theta, task: loss(phi, task.test),
    )
    theta = mc.Synapse(omega, jax.tree.map(lambda w: np.full(w.shape, -3.0), omega))
    return Case(problem, *jax.tree.map(jnp.asarray, (theta, task)))


PROBLEMS: dict[str, Callable[[int, int], Case]] = {
    "quadratic": quadratic,
    "digits": digits,
    "network": network,
}
