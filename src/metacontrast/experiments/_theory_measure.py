"""Errors of the contrastive rule against beta and delta, and the exponents in them."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

import metacontrast as mc

from .._contrast import encoded
from .._stencil import stencil
from ..accuracy import suggest_beta
from ._theory_problems import Part

SCHEMES = {"forward": 1, "symmetric": 2}  # and their orders
MOMENTUM = 0.9
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
    scheme: str
    delta: Any
    errors: Any
    suggested: Any = None
    suggested_error: Any = None


def exactly(part: Part) -> tuple[Any, Any]:
    """`phi_0` by Newton's method, and the meta-gradient there by the implicit function theorem."""

    @jax.jit
    def solved(theta: Any, task: Any) -> tuple[Any, Any]:
        rule = mc.Implicit("exact")
        found = mc.learn(part.problem, CONVERGED, theta, task).phi
        at = lambda loss, phi0: found
        return found, rule.value_and_grad(part.problem, at, theta, task)[1]

    return solved(part.theta, part.task)


def both_sides(part: Part, beta: float = 0.1, h: float = 1e-4) -> tuple[np.ndarray, np.ndarray]:
    """The equilibrium-propagation theorem: `d/dtheta dL/dbeta` and `d/dbeta dL/dtheta`.

    The outer derivatives are central differences; the inner ones are partial, at
    `phi_{theta, beta}`, which is learned anew for each.
    """
    flat, unravel = ravel_pytree(part.theta)

    def learned(theta: Any, beta: Any) -> tuple[mc.Loss, Any]:
        loss = part.problem.loss(theta, part.task, beta)
        return loss, CONVERGED(loss, part.problem.init(theta, part.task)).phi

    def by_beta(flat: jax.Array) -> jax.Array:
        loss, phi = learned(unravel(flat), beta)
        return loss.outer(phi)

    def by_theta(beta: Any) -> jax.Array:
        _, phi = learned(part.theta, beta)
        slope = jax.grad(lambda theta: part.problem.loss(theta, part.task, beta)(phi))
        return ravel_pytree(slope(part.theta))[0]

    steps = h * jnp.eye(flat.size)
    difference = lambda step: (by_beta(flat + step) - by_beta(flat - step)) / (2 * h)
    left = jax.jit(lambda steps: jax.lax.map(difference, steps))(steps)
    right = jax.jit(lambda beta: (by_theta(beta + h) - by_theta(beta - h)) / (2 * h))(beta)
    return np.asarray(left), np.asarray(right)


def descent(rate: float, steps: Any) -> mc.Solver:
    """Descent on `L / (1 + |beta|)`, which converges at any beta; `steps` may be traced."""
    optimizer = optax.sgd(rate, MOMENTUM)

    def solve(loss: Any, phi0: Any) -> Any:
        downhill = jax.grad(lambda phi: loss(phi) / (1 + jnp.abs(loss.beta)))

        def step(_: Any, carry: Any) -> Any:
            updates, state = optimizer.update(downhill(carry[0]), carry[1])
            return optax.apply_updates(carry[0], updates), state

        return jax.lax.fori_loop(0, steps, step, (phi0, optimizer.init(phi0)))[0]

    return solve


def anywhere(part: Part, scheme: str, exact: Any) -> Curves:
    """The theorem's learner: each phase stops at the distance delta, in a direction of its own."""
    seen = encoded(part.problem, part.theta, part.task)
    loss = part.problem.loss(part.theta, part.task)
    phi0 = part.problem.init(part.theta, part.task)

    def errors(beta: jax.Array) -> jax.Array:
        nodes, weights = stencil(scheme, None, beta)
        phis = [CONVERGED(loss.nudged(b), phi0).phi for b in nodes]
        keys = jax.random.split(jax.random.key(0), len(nodes))
        ways = [_direction(key, phi) for key, phi in zip(keys, phis, strict=True)]

        def missed(delta: jax.Array) -> jax.Array:
            stops = [optax.tree.add_scale(phi, delta, w) for phi, w in zip(phis, ways, strict=True)]
            return _relative(seen.contrast(nodes, weights, stops), exact)

        return jax.vmap(missed)(jnp.asarray(DELTAS))

    found = jax.jit(lambda betas: jax.lax.map(errors, betas))(jnp.asarray(part.betas))
    return Curves("anywhere", scheme, DELTAS, np.asarray(found).T)


def descended(part: Part, scheme: str, phi: Any, exact: Any) -> Curves:
    """Gradient descent with momentum, as many steps in each phase; and `suggest_beta` on it."""

    def error(solve: Any, beta: Any) -> jax.Array:
        rule = mc.Contrastive(beta, scheme)
        return _relative(rule.value_and_grad(part.problem, solve, part.theta, part.task)[1], exact)

    def at(steps: jax.Array) -> tuple[jax.Array, ...]:
        solve = descent(part.rate, steps)
        stopped = mc.learn(part.problem, solve, part.theta, part.task).phi
        delta = optax.tree.norm(optax.tree.sub(stopped, phi))
        errors = jax.vmap(partial(error, solve))(jnp.asarray(part.betas))
        beta = suggest_beta(part.problem, solve, part.theta, part.task, scheme).beta
        return delta, errors, beta, error(solve, beta)

    found = jax.jit(lambda steps: jax.lax.map(at, steps))(jnp.asarray(part.steps))
    return Curves("descent", scheme, *map(np.asarray, found))


def _relative(grad: Any, exact: Any) -> jax.Array:
    return optax.tree.norm(optax.tree.sub(grad, exact)) / optax.tree.norm(exact)


def _direction(key: jax.Array, like: Any) -> Any:
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


def slopes(name: str, betas: np.ndarray, found: Curves) -> list[Row]:
    """The exponents of the theory, as slopes of straight lines through logarithms."""
    errors = np.where(np.isfinite(found.errors), found.errors, np.inf)
    best, last = errors.argmin(1), errors[-1]
    noise, nudge = _branches(betas, last, best[-1])
    measured = {
        "error by beta, below the best": (betas[noise], last[noise]),
        "error by beta, above the best": (betas[nudge], last[nudge]),
        "best beta by delta": (found.delta, betas[best]),
        "best error by delta": (found.delta, errors.min(1)),
    }
    kind = (found.learner, found.scheme)
    rows = [
        Row(name, f"{', '.join(kind)}: {quantity}", _slope(x, y), expected)
        for (quantity, (x, y)), expected in zip(measured.items(), EXPONENTS[kind], strict=True)
        if expected is not None
    ]
    if name == "quadratic" and found.scheme == "forward":  # far beyond the pole, at beta = -1
        far = betas > 30
        quantity = f"{', '.join(kind)}: error by beta, far above"
        rows.append(Row(name, quantity, _slope(betas[far], last[far]), 0))
    return rows


def _branches(betas: np.ndarray, errors: np.ndarray, best: int) -> tuple[np.ndarray, np.ndarray]:
    """Where one of the two errors rules, on either side of the best beta."""
    clear = errors > 4 * errors[best]
    # Above, only while the error is small: beyond that higher powers of beta show.
    above = clear & (betas > betas[best]) & (errors < 0.03)
    below = clear & (betas < betas[best]) & (errors < 10)
    # Where nothing rises below the best, all that lies well below the rise above it.
    return (below if below.any() else betas < betas[above].min() / 4), above


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    """Of a straight line through logarithms; NaN, which counts as not measured, of two points."""
    if len(x) < 3:
        return float("nan")
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])
