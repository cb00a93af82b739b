"""Two small problems with known minimisers, and what tests share that hold numbers against them."""

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

import metacontrast as mc


class Case(NamedTuple):
    problem: mc.Problem
    theta: mc.Synapse
    task: mc.Task
    rate: float  # of gradient descent, below 1 / the largest curvature


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def least_squares(predict, theta, x, y, rate):
    """Half of the examples to learn from; the outer loss also sees theta by itself."""
    residual = lambda phi, theta, example: (predict(phi, example.x) - example.y) / 2
    direct = lambda phi, theta, example: (
        residual(phi, theta, example) + 0.1 * jnp.sum(ravel_pytree(theta.omega)[0])
    )
    problem = mc.Problem(
        init=lambda theta, task: theta.omega,
        inner=mc.LeastSquares(residual, lambda task: task.train, lambda theta: theta),
        outer=mc.LeastSquares(direct, lambda task: task.test),
    )
    half = len(y) // 2
    task = mc.Task(mc.Data(x[:half], y[:half]), mc.Data(x[half:], y[half:]))
    return Case(problem, jax.tree.map(jnp.asarray, theta), task, rate)


def ridge():
    x = normal(5, 12, 3)
    theta = mc.Synapse(normal(4, 3) / 2, jnp.array([0.1, -0.5, 0.3]))
    y = x @ jnp.array([1.0, -2.0, 0.5]) + normal(6, 12)
    return least_squares(lambda phi, x: phi @ x, theta, x, y, 0.1)


def network():
    def predict(phi, x):
        return phi["v"] @ jnp.tanh(phi["w"] * x + phi["b"])

    omega = {name: normal(10 + i, 3) for i, name in enumerate("wbv")}
    x = jnp.linspace(-2.0, 2.0, 12)[jnp.array([0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11])]
    log_lam = {"w": 0.1, "b": jnp.array([0.0, -0.2, 0.1]), "v": -0.3}
    return least_squares(predict, mc.Synapse(omega, log_lam), x, jnp.sin(x), 0.08)


CASES = {"ridge": cache(ridge), "network": cache(network)}


@cache
def exact(problem, damping=0.0):
    """The minimiser by Newton's method, and the hypergradient there by dense linear algebra."""
    learner, theta, task, _ = CASES[problem]()
    x, unravel = ravel_pytree(learner.init(theta, task))
    inner = lambda x, theta: learner.inner(unravel(x), theta, task)
    outer = lambda x, theta: learner.outer(unravel(x), theta, task)
    slope = jax.grad(inner)

    @jax.jit
    def dense(theta):
        step = lambda _, x: x - 0.08 * slope(x, theta)
        newton = lambda _, x: x - jnp.linalg.solve(jax.jacfwd(slope)(x, theta), slope(x, theta))
        phi = jax.lax.fori_loop(0, 8, newton, jax.lax.fori_loop(0, 400, step, x))
        hessian = jax.jacfwd(slope)(phi, theta)
        by_phi, by_theta = jax.grad(outer, (0, 1))(phi, theta)
        u = jnp.linalg.solve(hessian + damping * jnp.eye(x.size), by_phi)
        cross = jax.grad(lambda theta: slope(phi, theta) @ u)(theta)
        return phi, slope(phi, theta), hessian, optax.tree.sub(by_theta, cross)

    phi, residual, hessian, grad = dense(theta)
    assert jnp.linalg.norm(residual) < 1e-12
    assert jnp.linalg.eigvalsh(hessian).min() > 0.1
    return unravel(phi), grad


def distance(a, b):
    return float(optax.tree.norm(optax.tree.sub(a, b)))
