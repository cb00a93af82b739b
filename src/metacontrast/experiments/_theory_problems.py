"""The three problems on which the theory is measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import metacontrast as mc

EXAMPLES = 300  # of the digits, to learn from and as many to be judged on


class Part(NamedTuple):
    """One problem, and what it is measured with."""

    problem: mc.Problem
    theta: Any
    task: Any
    rate: float  # of the learner
    steps: tuple[int, ...]  # its accuracies
    betas: np.ndarray


def quadratic(seed: int) -> Part:
    """A complex synapse between two random paraboloids; `phi_beta` has its pole at beta = -1."""
    n, rng = 20, np.random.default_rng(seed)
    h, a = (m @ m.T / n + 0.5 * np.eye(n) for m in rng.normal(size=(2, n, n)))
    theta = {"omega": rng.normal(size=n), "log_lam": rng.uniform(-1, 1, n)}
    whole = h + 2 * np.diag(np.exp(theta["log_lam"]))
    a /= np.linalg.eigvals(np.linalg.solve(whole, a)).real.max()
    bowl = lambda x, matrix: 0.5 * x @ matrix @ x
    problem = mc.Problem(
        init=lambda theta, task: theta["omega"],
        inner=lambda phi, theta, task: (
            bowl(phi - task["train"], h) + mc.attraction(phi, theta["omega"], theta["log_lam"])
        ),
        outer=lambda phi, theta, task: bowl(phi - task["test"], a),
    )
    task = {"train": rng.normal(size=n), "test": rng.normal(size=n)}
    theta, task = jax.tree.map(jnp.asarray, (theta, task))
    return Part(
        problem, theta, task, 0.05, (20, 45, 80, 120, 170, 220, 280), np.logspace(-7, 3, 81)
    )


def digits(seed: int) -> Part:
    """Logistic regression on scikit-learn's digits: theta is one log lambda a pixel."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ValueError(
            "method: digits needs scikit-learn; pip install 'metacontrast[sklearn]', or choose "
            "another --method."
        ) from error
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(x))[: 2 * EXAMPLES]
    x, y = jnp.asarray(x[order] / 16 - 0.3), jnp.asarray(y[order])
    task = mc.Task(mc.Data(x[:EXAMPLES], y[:EXAMPLES]), mc.Data(x[EXAMPLES:], y[EXAMPLES:]))

    def loss(phi: Any, data: mc.Data) -> jax.Array:
        logits = data.x @ phi["w"] + phi["b"][None]
        right = jnp.take_along_axis(logits, data.y[:, None], axis=1)[:, 0]
        return jnp.mean(jax.nn.logsumexp(logits, axis=1) - right)  # analytic

    def inner(phi: Any, theta: Any, task: mc.Task) -> jax.Array:
        strengths = {"w": theta[:, None], "b": jnp.log(1e-2)}
        return loss(phi, task.train) + mc.attraction(phi, log_lam=strengths)

    problem = mc.Problem(
        init=lambda theta, task: {"w": jnp.zeros((64, 10)), "b": jnp.zeros(10)},
        inner=inner,
        outer=lambda phi, theta, task: loss(phi, task.test),
    )
    theta = jnp.full(64, jnp.log(1e-2))
    return Part(problem, theta, task, 0.5, (40, 80, 130, 180, 240), np.logspace(-6, 1, 36))


def network(seed: int) -> Part:
    """A network of 8 tanh units learns a sine from 10 points; every weight is a complex synapse."""
    rng, hidden = np.random.default_rng(seed), 8
    omega = {"w": rng.normal(size=hidden), "b": rng.normal(size=hidden)}
    omega["v"] = rng.normal(size=hidden) / np.sqrt(hidden)
    x = rng.uniform(-3, 3, (2, 10))
    task = mc.Task(mc.Data(x[0], np.sin(x[0])), mc.Data(x[1], np.sin(x[1])))

    def loss(phi: Any, data: mc.Data) -> jax.Array:
        hidden = jnp.tanh(data.x[:, None] * phi["w"][None] + phi["b"][None])
        return jnp.mean((hidden @ phi["v"] - data.y) ** 2)

    problem = mc.Problem(
        init=lambda theta, task: theta["omega"],
        inner=lambda phi, theta, task: (
            loss(phi, task.train) + mc.attraction(phi, theta["omega"], theta["log_lam"])
        ),
        outer=lambda phi, theta, task: loss(phi, task.test),
    )
    theta = {"omega": omega, "log_lam": jax.tree.map(lambda w: np.full(w.shape, -3.0), omega)}
    theta, task = jax.tree.map(jnp.asarray, (theta, task))
    return Part(problem, theta, task, 0.1, (60, 120, 180, 240, 300), np.logspace(-6, 2, 65))


PROBLEMS: dict[str, Callable[[int], Part]] = {
    "quadratic": quadratic,
    "digits": digits,
    "network": network,
}
