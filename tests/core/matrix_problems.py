"""Four small problems with known minimisers, and every solver tuned to them."""

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

import metacontrast as mc
from metacontrast._solve import settle


class Case(NamedTuple):
    problem: mc.Problem
    theta: dict
    task: object
    rate: float  # of gradient descent, below 1 / the largest curvature


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def case(init, inner, outer, theta, task, rate):
    # Compiled by themselves, so that estimators can run eagerly and share what was compiled.
    return Case(mc.Problem(init, jax.jit(inner), jax.jit(outer)), theta, task, rate)


def quadratic():
    h, a = normal(0, 4, 4), normal(1, 4, 4)
    task = {"h": h @ h.T / 4, "a": a @ a.T / 4, "x": normal(2, 4), "y": normal(3, 4)}

    def inner(phi, theta, z):
        d = phi - z["x"]
        return d @ z["h"] @ d + mc.attraction(phi, theta["omega"], theta["log_lam"])

    def outer(phi, theta, z):
        return (phi - z["y"]) @ z["a"] @ (phi - z["y"]) + theta["omega"] @ phi

    theta = {"omega": normal(4, 4), "log_lam": jnp.array([0.0, -0.3, 0.2, 0.1])}
    return case(lambda theta, task: theta["omega"], inner, outer, theta, task, 0.1)


class Compiled(mc.LeastSquares):
    """Compiled by itself too, and still open to gauss_newton."""

    __call__ = jax.jit(mc.LeastSquares.__call__, static_argnums=0)


def least_squares(init, predict, x, y, theta, rate):
    def residual(phi, theta, example):
        return (predict(phi, example.x) - example.y) / 2

    prior = lambda theta: (theta["omega"], theta["log_lam"])
    inner = Compiled(residual, lambda task: task.train, prior)
    outer = Compiled(residual, lambda task: task.test)
    half = len(y) // 2
    task = mc.Task(mc.Data(x[:half], y[:half]), mc.Data(x[half:], y[half:]))
    return Case(mc.Problem(init, inner, outer), theta, task, rate)


def ridge():
    x = normal(5, 12, 3)
    theta = {"omega": jnp.zeros(3), "log_lam": jnp.array([0.1, -0.5, 0.3])}
    y = x @ jnp.array([1.0, -2.0, 0.5]) + normal(6, 12)
    zeros = lambda theta, task: jnp.zeros(3)
    return least_squares(zeros, lambda phi, x: phi @ x, x, y, theta, 0.1)


def logistic():
    x = normal(7, 12, 3)
    sign = jnp.where(x @ jnp.array([1.0, 1.0, -1.0]) + normal(8, 12) > 0, 1.0, -1.0)
    task = mc.Task(mc.Data(x[:6], sign[:6]), mc.Data(x[6:], sign[6:]))
    nll = lambda phi, data: jnp.sum(jax.nn.softplus(-data.y * (data.x @ phi)))

    def inner(phi, theta, task):
        return nll(phi, task.train) + mc.attraction(phi, theta["omega"], theta["log_lam"])

    outer = lambda phi, theta, task: nll(phi, task.test)
    theta = {"omega": normal(9, 3), "log_lam": jnp.array([-0.5, 0.0, -0.2])}
    return case(lambda theta, task: theta["omega"], inner, outer, theta, task, 0.1)


def network():
    def predict(phi, x):
        return phi["v"] @ jnp.tanh(phi["w"] * x + phi["b"])

    shapes = {"w": 3, "b": 3, "v": 3}
    omega = {name: normal(10 + i, n) for i, (name, n) in enumerate(shapes.items())}
    x = jnp.linspace(-2.0, 2.0, 12)[jnp.array([0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11])]
    theta = {"omega": omega, "log_lam": {"w": 0.1, "b": jnp.array([0.0, -0.2, 0.1]), "v": -0.3}}
    theta = jax.tree.map(jnp.asarray, theta)
    start = lambda theta, task: theta["omega"]
    return least_squares(start, predict, x, jnp.sin(x), theta, 0.08)


PROBLEMS = {"quadratic": quadratic, "ridge": ridge, "logistic": logistic, "network": network}
CASES = {name: cache(make) for name, make in PROBLEMS.items()}
QUADRATIC = ("quadratic", "ridge")
SQUARES = ("ridge", "network")

SOLVERS = {
    "descend": lambda rate: mc.descend(optax.sgd(rate), 800),
    "until_converged": lambda rate: mc.until_converged(optax.sgd(rate, 0.5), 1e-12),
    "lbfgs": lambda rate: mc.lbfgs(1e-9, 60),
    "anderson": lambda rate: mc.anderson(rate, 1e-12, 200),
    "newton_cg": lambda rate: mc.newton_cg(1e-12),
    "closed_form": lambda rate: mc.closed_form(),
    "gauss_newton": lambda rate: mc.gauss_newton(40),
    "evolve": lambda rate: mc.evolve(optax.sgd(rate / 2), 1500, sigma=1e-4, pairs=6),
}
PAIRS = [
    (problem, solver)
    for problem in PROBLEMS
    for solver in SOLVERS
    if (problem in QUADRATIC or solver != "closed_form")
    and (problem in SQUARES or solver != "gauss_newton")
]


@cache
def solver(problem, name):
    """The solver, compiled once for all phases: compiling is what these tests spend time on."""
    made = SOLVERS[name](CASES[problem]().rate)
    learner = CASES[problem]().problem

    def run(theta, z, beta, phi0):
        return settle(made, mc.Loss(learner, theta, z, beta), phi0)

    compiled = jax.jit(run)
    # Without test data gauss_newton needs to know it: a weight of 0 makes its system singular.
    free = jax.jit(lambda theta, z, phi0: run(theta, z, 0.0, phi0))

    def solve(loss, phi0, state=None):
        if name == "gauss_newton" and isinstance(loss.beta, float) and loss.beta == 0.0:
            return free(loss.theta, loss.z, phi0)
        return compiled(loss.theta, loss.z, jnp.asarray(loss.beta), phi0)

    solve.holomorphic = getattr(made, "holomorphic", False)
    return solve


@cache
def exact(name):
    """The minimiser by Newton's method, and the hypergradient there by dense linear algebra."""
    problem, theta, task, _ = CASES[name]()
    phi0, unravel = jax.flatten_util.ravel_pytree(problem.init(theta, task))
    inner = jax.jit(lambda phi, theta: problem.inner(unravel(phi), theta, task))
    outer = jax.jit(lambda phi, theta: problem.outer(unravel(phi), theta, task))
    slope, hessian = jax.jit(jax.grad(inner)), jax.jit(jax.hessian(inner))
    phi = phi0
    for _ in range(400):
        phi = phi - 0.08 * slope(phi, theta)
    for _ in range(8):
        phi = phi - jnp.linalg.solve(hessian(phi, theta), slope(phi, theta))
    assert jnp.linalg.norm(slope(phi, theta)) < 1e-12
    assert jnp.linalg.eigvalsh(hessian(phi, theta)).min() > 0.1
    by_phi, by_theta = jax.grad(outer, (0, 1))(phi, theta)
    u = jnp.linalg.solve(hessian(phi, theta), by_phi)
    cross = jax.jit(jax.jacrev(slope, 1))(phi, theta)
    grad = jax.tree.map(lambda g, c: g - jnp.tensordot(u, c, 1), by_theta, cross)
    return unravel(phi), grad


def distance(a, b):
    return float(optax.tree.norm(optax.tree.sub(a, b)))
