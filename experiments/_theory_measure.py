"""Errors of the contrastive rule against beta and delta, and the exponents in them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _theory_problems import Case
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree

import metacontrast as mc
from metacontrast._contrast import contrast_at
from metacontrast._loss import OuterNudge
from metacontrast._stencil import Scheme
from metacontrast.accuracy import suggest_beta

SCHEMES: tuple[Scheme, ...] = ("forward", "symmetric")
DELTAS = np.logspace(-1, -8, 8)
CONVERGED = mc.newton_cg(1e-13, 100, 400)


class Row(NamedTuple):
    """One figure of the table."""

    problem: str
    quantity: str
    measured: float
    expected: float


class Curves(NamedTuple):
    """Of one learner and scheme: delta of every accuracy, and errors of shape (accuracies, betas).

    With the betas that `suggest_beta` gave, one an accuracy, and the errors there.
    """

    learner: str
    scheme: Scheme
    betas: np.ndarray
    delta: np.ndarray
    errors: np.ndarray
    suggested: np.ndarray | None = None
    suggested_error: np.ndarray | None = None


class Descent(NamedTuple):
    """Gradient descent, which the number of steps makes more accurate."""

    rate: float
    momentum: float
    steps: Sequence[int]  # accuracies

    def optimizer(self) -> optax.GradientTransformation:
        """Of `steps` steps."""
        return optax.sgd(self.rate, self.momentum)

    def solver(self, steps: jax.Array | int) -> mc.Solver:
        """Descent on `L / (1 + |beta|)`, which converges at any beta; `steps` may be traced."""
        optimizer = self.optimizer()

        def solve(loss: mc.Loss, phi_0: PyTree) -> PyTree:
            beta = 0.0 if loss.nudge is None else loss.nudge.beta
            downhill = jax.grad(lambda phi: loss(phi) / (1 + jnp.abs(beta)))

            def step(_: jax.Array, carry: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
                updates, state = optimizer.update(downhill(carry[0]), carry[1])
                return optax.apply_updates(carry[0], updates), state

            return jax.lax.fori_loop(0, steps, step, (phi_0, optimizer.init(phi_0)))[0]

        return mc.as_solver(solve)


def exact_gradient(case: Case) -> tuple[PyTree, PyTree]:
    """`phi_0` by Newton's method, and the meta-gradient there by the implicit function theorem."""
    problem, theta, task = case
    phi = jax.jit(lambda *args: mc.solve_inner(problem, CONVERGED, *args).phi)(theta, task)
    there = mc.as_solver(lambda loss, phi_0: phi)
    rule = mc.meta_gradient(problem, there, mc.Implicit("exact"), by_z=False)
    return phi, rule(theta, task).by_theta


def both_sides(case: Case, beta: float = 0.1, h: float = 1e-4) -> tuple[np.ndarray, np.ndarray]:
    """The equilibrium-propagation theorem: `d/dtheta dL/dbeta` and `d/dbeta dL/dtheta`.

    The outer derivatives are central differences; the inner ones are partial, at
    `phi_{theta, beta}`, which is learned anew for each.
    """
    problem, theta_0, task = case
    flat, unravel = ravel_pytree(theta_0)

    def nudged(theta: PyTree, beta: jax.Array | float) -> mc.Loss:
        return mc.Loss(problem, theta, task).nudged(OuterNudge(beta))

    def learn(theta: PyTree, beta: jax.Array | float) -> tuple[mc.Loss, PyTree]:
        loss = nudged(theta, beta)
        return loss, CONVERGED(loss, problem.init(theta, task)).phi

    def by_beta(flat: jax.Array) -> jax.Array:
        loss, phi = learn(unravel(flat), beta)
        return loss.outer(phi)

    def by_theta(beta: jax.Array | float) -> jax.Array:
        _, phi = learn(theta_0, beta)
        slope = jax.grad(lambda theta: nudged(theta, beta)(phi))
        return ravel_pytree(slope(theta_0))[0]

    steps = h * jnp.eye(flat.size)
    difference = lambda step: (by_beta(flat + step) - by_beta(flat - step)) / (2 * h)
    left = jax.jit(lambda steps: jax.lax.map(difference, steps))(steps)
    right = jax.jit(lambda beta: (by_theta(beta + h) - by_theta(beta - h)) / (2 * h))(beta)
    return np.asarray(left), np.asarray(right)


def errors_anywhere(case: Case, betas: np.ndarray, scheme: Scheme, exact: PyTree) -> Curves:
    """The theorem's learner: each phase stops at the distance delta, in a direction of its own."""
    free = mc.Loss(*case)
    phi_0 = case.problem.init(case.theta, case.task)

    def errors(beta: jax.Array) -> jax.Array:
        nodes, weights, of_free = mc.stencil(scheme, None, beta)
        losses = [free.nudged(OuterNudge(b)) for b in nodes]
        if of_free is not None:
            losses, weights = [free, *losses], (of_free, *weights)
        phis = [CONVERGED(loss, phi_0).phi for loss in losses]
        keys = jax.random.split(jax.random.key(0), len(losses))
        ways = [_direction(key, phi) for key, phi in zip(keys, phis, strict=True)]

        def error(delta: jax.Array) -> jax.Array:
            stops = [optax.tree.add_scale(phi, delta, w) for phi, w in zip(phis, ways, strict=True)]
            return _relative(contrast_at(losses, weights, stops)[0], exact)

        return jax.vmap(error)(jnp.asarray(DELTAS))

    found = jax.jit(lambda betas: jax.lax.map(errors, betas))(jnp.asarray(betas))
    return Curves("anywhere", scheme, betas, DELTAS, np.asarray(found).T)


def errors_of_descent(
    case: Case, descent: Descent, betas: np.ndarray, scheme: Scheme, phi: PyTree, exact: PyTree
) -> Curves:
    """Gradient descent with momentum, as many steps in each phase; and `suggest_beta` on it."""

    def error(solver: mc.Solver, beta: jax.Array) -> jax.Array:
        rule = mc.meta_gradient(case.problem, solver, mc.Contrastive(beta, scheme), by_z=False)
        return _relative(rule(case.theta, case.task).by_theta, exact)

    def at(steps: jax.Array) -> tuple[jax.Array, ...]:
        solver = descent.solver(steps)
        stop = mc.solve_inner(case.problem, solver, case.theta, case.task).phi
        delta = optax.tree.norm(optax.tree.sub(stop, phi))
        errors = jax.vmap(partial(error, solver))(jnp.asarray(betas))
        beta = suggest_beta(case.problem, solver, case.theta, case.task, scheme).beta
        return delta, errors, beta, error(solver, beta)

    each = jax.jit(lambda steps: jax.lax.map(at, steps))(jnp.asarray(descent.steps))
    return Curves("descent", scheme, betas, *map(np.asarray, each))


def _relative(grad: PyTree, exact: PyTree) -> jax.Array:
    return optax.tree.norm(optax.tree.sub(grad, exact)) / optax.tree.norm(exact)


def _direction(key: jax.Array, like: PyTree) -> PyTree:
    """A random tree of length 1."""
    flat, unravel = ravel_pytree(like)
    way = jax.random.normal(key, flat.shape, flat.dtype)
    return unravel(way / jnp.linalg.norm(way))


# Slopes in logarithms: of the error by beta below the best and above it, of the best beta and of
# the best error by delta. In a symmetric contrast of phases that take the same steps from the same
# phi_0, what each misses cancels instead of being divided by beta: below the best it is flat.
EXPONENTS = {
    ("anywhere", "forward"): (-1, 1, 1 / 2, 1 / 2),
    ("anywhere", "symmetric"): (-1, 2, 1 / 3, 2 / 3),
    ("descent", "forward"): (-1, 1, 1 / 2, 1 / 2),
    ("descent", "symmetric"): (0, 2, None, 1),
}


def slopes(name: str, curves: Curves) -> list[Row]:
    """The exponents of the theory, as slopes of straight lines through logarithms."""
    betas, last = curves.betas, curves.errors[-1]
    best, lowest = least(curves.errors)
    below, above = branches(betas, last, best[-1])
    measured = {
        "error by beta, below the best": (betas[below], last[below]),
        "error by beta, above the best": (betas[above], last[above]),
        "best beta by delta": (curves.delta, betas[best]),
        "best error by delta": (curves.delta, lowest),
    }
    kind = (curves.learner, curves.scheme)
    rows = [
        Row(name, f"{', '.join(kind)}: {quantity}", _slope(x, y), expected)
        for (quantity, (x, y)), expected in zip(measured.items(), EXPONENTS[kind], strict=True)
        if expected is not None
    ]
    if name == "quadratic" and curves.scheme == "forward":  # far beyond the pole, at beta = -1
        far = betas > 30
        quantity = f"{', '.join(kind)}: error by beta, far above"
        rows.append(Row(name, quantity, _slope(betas[far], last[far]), 0))
    return rows


def least(errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each row of errors is least, and what it is there: infinite, where none is finite."""
    finite = np.where(np.isfinite(errors), errors, np.inf)
    return finite.argmin(axis=-1), finite.min(axis=-1)


def branches(betas: np.ndarray, errors: np.ndarray, best: int) -> tuple[np.ndarray, np.ndarray]:
    """Where one of the two errors rules, on either side of the best beta, as masks of betas."""
    clear = errors > 4 * errors[best]
    # Above, only while the error is small: beyond that higher powers of beta show.
    above = clear & (betas > betas[best]) & (errors < 0.03)
    below = clear & (betas < betas[best]) & (errors < 10)
    # Where nothing rises below the best, all that lies well below the rise above it; or, where the
    # learner is too crude to show that rise, all that is near the best.
    flat = betas < np.min(betas[above]) / 4 if above.any() else ~clear
    return (below if below.any() else flat), above


def has_logarithms(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of each point, whether it lies on paper with two logarithmic axes."""
    return np.asarray(np.isfinite(y) & (y > 0) & (x > 0))


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    """Of a straight line through logarithms; NaN, not measured, of fewer than three such points."""
    has_log = has_logarithms(x, y)
    if np.sum(has_log) < 3:
        return float("nan")
    return float(np.polyfit(np.log(x[has_log]), np.log(y[has_log]), 1)[0])
