"""Problems whose meta-gradient is known, and solvers that tell what they were asked to do.

All are complex synapses: theta is a `Synapse`, and L_in = L_train + theta.pull(phi).
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import metacontrast as mc
from metacontrast._loss import OuterNudge

EPS = float(np.finfo(np.float64).eps)


def relative_error(actual, expected):
    """`|actual - expected| / |expected|` in the Euclidean norm over all leaves."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    assert jax.tree.map(jnp.shape, actual) == jax.tree.map(jnp.shape, expected)
    actual, expected = (
        np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(tree)])
        for tree in (actual, expected)
    )
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


def slope(betas, errors):
    """The observed order: the slope of log error over log beta, by least squares."""
    return float(np.polyfit(np.log(betas), np.log(errors), 1)[0])


def meta_grad(problem, solver, estimator, theta, task, key=None):
    """The estimator's meta-gradient by theta alone; compiled without its diagnostics."""
    gradient = mc.meta_gradient(problem, solver, estimator, by_z=False)
    return jax.jit(lambda *arguments: gradient(*arguments).by_theta)(theta, task, key)


# Solvers


def nudge_of(loss):
    """The beta of an outer nudge; 0 in the free phase."""
    return 0.0 if loss.nudge is None else loss.nudge.beta


def closed_form(solution):
    """The solver that knows the answer, `solution(theta, task, beta)`."""
    return mc.as_solver(lambda loss, phi: solution(loss.theta, loss.z, nudge_of(loss))[0])


def newton(steps):
    """Newton's method with dense Hessians, from far enough inside its basin."""

    def solve(loss, phi):
        flat, unravel = ravel_pytree(phi)
        value = lambda flat: loss(unravel(flat))
        step = lambda _, at: at - jnp.linalg.solve(jax.hessian(value)(at), jax.grad(value)(at))
        return unravel(jax.lax.fori_loop(0, steps, step, flat))

    return mc.as_solver(solve)


@dataclass(frozen=True, eq=False)
class Recorder(mc.Solver):
    """A solver that notes the nudge and the starting point of each phase it is asked to run.

    Under `jit` it notes what is traced, so tracing is enough to read it.
    """

    solver: mc.Solver
    betas: list = field(default_factory=list)
    starts: list = field(default_factory=list)

    def init(self, loss, phi, memory=None):
        self.betas.append(nudge_of(loss))
        self.starts.append(phi)
        return self.solver.init(loss, phi, memory)

    def step(self, loss, state, t):
        return self.solver.step(loss, state, t)


def record(solver):
    """The solver, with its `betas` and `starts`."""
    return Recorder(solver, steps=solver.steps, tol=solver.tol, sampled=solver.sampled)


# A solver that does not move, and one that must not be called.


@mc.as_solver
def lazy(loss, phi):
    return phi


@mc.as_solver
def forbidden(loss, phi):
    raise AssertionError("compute was spent")


def never(*arguments):
    """Any function that is not to be called."""
    raise AssertionError("compute was spent")


def nudged_loss(problem, theta, task, beta, key=None):
    """The augmented loss at an outer nudge."""
    return mc.Loss(problem, theta, task, key).nudged(OuterNudge(beta))


# Quadratic problems


class Paraboloids(NamedTuple):
    """A task: `0.5 (phi - centre)' curvature (phi - centre)` within and without."""

    curvature: jax.Array
    centre: jax.Array
    outer_curvature: jax.Array
    outer_centre: jax.Array


def paraboloid(phi, curvature, centre):
    return 0.5 * (phi - centre) @ curvature @ (phi - centre)


def at_omega(theta, task):
    """Learning starts where phi is pulled to."""
    return theta.omega


quadratic = mc.Problem(
    init=at_omega,
    inner=lambda phi, theta, task: paraboloid(phi, task.curvature, task.centre) + theta.pull(phi),
    outer=lambda phi, theta, task: paraboloid(phi, task.outer_curvature, task.outer_centre),
)


def random_quadratic(seed, size=5):
    """`(theta, task)`, scaled so that the largest eigenvalue of `H_in^-1 H_out` is 1.

    Then `phi_beta` has its nearest pole at beta = -1: beta is measured in its natural unit.
    """
    rng = np.random.default_rng(seed)
    a, b = (m @ m.T / size + 0.5 * np.eye(size) for m in rng.normal(size=(2, size, size)))
    theta = mc.Synapse(rng.normal(size=size), rng.uniform(-1, 1, size))
    whole = a + 2 * np.diag(np.exp(theta.log_lam))
    b /= np.linalg.eigvals(np.linalg.solve(whole, b)).real.max()
    task = Paraboloids(a, rng.normal(size=size), b, rng.normal(size=size))
    return jax.tree.map(jnp.asarray, (theta, task))


def quadratic_solution(theta, task, beta=0.0):
    """`phi_beta`, and the Hessian of the inner loss."""
    lam = jnp.exp(theta.log_lam)
    inner = task.curvature + 2 * jnp.diag(lam)
    pulls = task.curvature @ task.centre + 2 * lam * theta.omega
    nudge = beta * task.outer_curvature @ task.outer_centre
    return jnp.linalg.solve(inner + beta * task.outer_curvature, pulls + nudge), inner


def quadratic_hypergradient(theta, task):
    phi, hessian = quadratic_solution(theta, task)
    slope_out = task.outer_curvature @ (phi - task.outer_centre)
    return synapse_hypergradient(theta, phi, hessian, slope_out)


def synapse_hypergradient(theta, phi, hessian, outer_slope):
    """The implicit function theorem: `-(d2 L_in / dtheta dphi) H^-1 dL_out/dphi`, by hand."""
    back = jnp.linalg.solve(hessian, outer_slope)
    twice = 2 * jnp.exp(theta.log_lam)
    by_weight = -twice * (phi - theta.omega) * back
    shared = jnp.ndim(theta.log_lam) == 0
    return mc.Synapse(twice * back, jnp.sum(by_weight) if shared else by_weight)


# Least squares: ridge regression and a tiny network


def _least_squares(residual):
    return mc.Problem(
        init=at_omega,
        inner=mc.LeastSquares(residual, lambda task: task.train, prior=lambda theta: theta),
        outer=mc.LeastSquares(residual, lambda task: task.test),
    )


ridge = _least_squares(lambda phi, theta, example: phi @ example.x - example.y)


def random_ridge(seed, examples=6, weights=9):
    """`(theta, task)`: fewer examples than weights, so that the penalty matters; beta as above."""
    rng = np.random.default_rng(seed)
    x, y = (
        rng.normal(size=(2, examples, weights)) / np.sqrt(weights),
        rng.normal(size=(2, examples)),
    )
    theta = mc.Synapse(rng.normal(size=weights), rng.uniform(-0.5, 0.5))
    whole = x[0].T @ x[0] + np.exp(theta.log_lam) * np.eye(weights)
    x[1] /= np.sqrt(np.linalg.eigvals(np.linalg.solve(whole, x[1].T @ x[1])).real.max())
    task = mc.Task(mc.Data(x[0], y[0]), mc.Data(x[1], y[1]))
    return jax.tree.map(jnp.asarray, (theta, task))


def ridge_solution(theta, task, beta=0.0):
    """`phi_beta` by the normal equations, and the Hessian of the inner loss."""
    (x, y), (v, u) = task
    lam = jnp.broadcast_to(jnp.exp(theta.log_lam), theta.omega.shape)
    inner = x.T @ x + jnp.diag(lam)
    pulls = x.T @ y + lam * theta.omega + beta * v.T @ u
    return jnp.linalg.solve(inner + beta * v.T @ v, pulls), 2 * inner


def ridge_hypergradient(theta, task):
    phi, hessian = ridge_solution(theta, task)
    (v, u) = task.test
    return synapse_hypergradient(theta, phi, hessian, 2 * v.T @ (v @ phi - u))


def forward_pass(phi, x):
    """A network with one hidden layer of tanh."""
    hidden = jnp.tanh(x @ phi["in"]["w"] + phi["in"]["b"])
    return hidden @ phi["out"]["w"] + phi["out"]["b"]


network = _least_squares(lambda phi, theta, example: forward_pass(phi, example.x) - example.y)


def random_network(seed, hidden=4, examples=5, log_lam=-1.0):
    """`(theta, task)`: a sine to learn from a few points."""
    rng = np.random.default_rng(seed)
    omega = {
        "in": {"w": rng.normal(size=(1, hidden)), "b": rng.normal(size=hidden)},
        "out": {"w": rng.normal(size=(hidden, 1)) / np.sqrt(hidden), "b": np.zeros(1)},
    }
    x = rng.uniform(-2, 2, (2, examples, 1))
    task = mc.Task(mc.Data(x[0], np.sin(x[0])), mc.Data(x[1], np.sin(x[1])))
    return jax.tree.map(jnp.asarray, (mc.Synapse(omega, log_lam), task))


# Logistic regression: convex, not quadratic


def _cross_entropy(phi, data):
    return jnp.mean(jnp.logaddexp(0.0, -data.y * (data.x @ phi)))


logistic = mc.Problem(
    init=at_omega,
    inner=lambda phi, theta, task: _cross_entropy(phi, task.train) + theta.pull(phi),
    outer=lambda phi, theta, task: _cross_entropy(phi, task.test),
)


def random_logistic(seed, examples=8, weights=3):
    """`(theta, task)`, labels -1 and 1."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, examples, weights)), np.sign(rng.normal(size=(2, examples)))
    task = mc.Task(mc.Data(x[0], y[0]), mc.Data(x[1], y[1]))
    theta = mc.Synapse(rng.normal(size=weights), rng.uniform(-2, -1, weights))
    return jax.tree.map(jnp.asarray, (theta, task))


def implicit_gradients(problem, theta, z, phi):
    """The implicit function theorem at any minimiser `phi`, by theta and by z, densely."""
    flat, unravel = ravel_pytree(phi)
    inner = lambda x, theta, z: problem.inner(unravel(x), theta, z)
    outer = lambda x, theta, z: problem.outer(unravel(x), theta, z)
    hessian = jax.hessian(inner)(flat, theta, z)
    back = jnp.linalg.solve(hessian, jax.grad(outer)(flat, theta, z))
    total = lambda theta, z: (
        outer(flat, theta, z) - jax.jvp(lambda x: inner(x, theta, z), (flat,), (back,))[1]
    )
    return jax.grad(total, (0, 1), allow_int=True)(theta, z)


def implicit_hypergradient(problem, theta, task, phi):
    """The same by theta alone."""
    return implicit_gradients(problem, theta, task, phi)[0]


def batch(random, seeds):
    """One theta, and the tasks of several seeds with a leading axis."""
    tasks = [random(seed)[1] for seed in seeds]
    return random(seeds[0])[0], jax.tree.map(lambda *leaves: jnp.stack(leaves), *tasks)
