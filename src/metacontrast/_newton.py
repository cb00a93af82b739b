"""Solvers with second derivatives: Newton's method, by conjugate gradient or in closed form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from ._linear import cg, exactly
from ._problem import PyTree
from ._quasi_newton import tolerated
from ._solve import Solution, Solver, positive

HALVINGS = 20


def newton_cg(tol: float, max_steps: int = 100, iterations: int = 100) -> Solver:
    """Newton's method whose systems are solved by conjugate gradient: "Hessian-free" learning.

        phi <- phi - a d,   H d = g  to a relative residual of min(1/2, sqrt |g|),

    which converges superlinearly. Where H has negative curvature, d is what conjugate gradient had
    found before it met it, or g itself; a is halved until the loss falls. On all data.

    Args:
        tol: on the Euclidean norm of `dL/dphi`; positive.
        max_steps: at most; the solution then says `converged=False`.
        iterations: of conjugate gradient a step, at most.

    Reference: Dembo, Eisenstat, Steihaug, 1982; Martens, 2010; as the learner of "Hessian-free"
    iMAML: Rajeswaran, Finn, Kakade, Levine, 2019.

    Example:
        >>> loss = lambda x: jnp.sum((x**2 - 2.0) ** 2)
        >>> newton_cg(1e-4)(loss, jnp.array([1.0, 0.1])).phi.round(3).tolist()
        [1.414..., 1.414...]
    """
    tolerated(tol, max_steps)
    positive("iterations", iterations)

    def solve(loss: Any, phi0: PyTree, state: PyTree = None) -> Solution:
        flat0, unravel = ravel_pytree(phi0)
        value_and_slope = jax.value_and_grad(lambda flat: loss(unravel(flat)))
        slope = lambda flat: value_and_slope(flat)[1]

        def unfinished(carry: tuple[jax.Array, ...]) -> jax.Array:
            _, _, g, t = carry
            return (jnp.linalg.norm(g) > tol) & (t < max_steps)

        def step(carry: tuple[jax.Array, ...]) -> Any:
            flat, value, g, t = carry
            forcing = jnp.minimum(0.5, jnp.sqrt(jnp.linalg.norm(g)))
            found = cg(lambda v: exactly(slope, flat, v), g, iterations, forcing)
            at_once = (found.curvature <= 0) & (found.iterations == 1)
            d = jnp.where(at_once, g, found.x)
            flat = _backtracked(lambda x: loss(unravel(x)), flat, value, d, g @ d)
            return (flat, *value_and_slope(flat), t + 1)

        start = (flat0, *value_and_slope(flat0), jnp.array(0))
        flat, _, g, t = jax.lax.while_loop(unfinished, step, start)
        residual = jnp.linalg.norm(g)
        return Solution(unravel(flat), None, t, residual <= tol, residual)

    return solve


def _backtracked(
    function: Callable[[jax.Array], Any], at: jax.Array, value: Any, d: jax.Array, fall: Any
) -> jax.Array:
    """`at - a d` with the first `a` of 1, 1/2, 1/4 ... at which the function falls enough."""
    # At a minimum the fall drowns in the value's round-off, but the steps still bring phi closer.
    allowed = 8 * jnp.finfo(at.dtype).eps * jnp.abs(value)

    def too_far(a: jax.Array) -> jax.Array:
        enough = function(at - a * d) <= value - 1e-4 * a * fall + allowed
        return jnp.logical_not(enough) & (a > 0.5**HALVINGS)

    a = jax.lax.while_loop(too_far, lambda a: a / 2, jnp.ones((), at.dtype))
    return at - a * d


def closed_form(iterations: int | None = None) -> Solver:
    """The minimiser of a quadratic loss, `phi_0 - H^-1 g(phi_0)`, at once: ridge regression.

    One Newton step. By the matrix H itself, or by conjugate gradient for many weights. On another
    loss it is one step and no minimum: the solution's `converged`, and its `residual`, tell. It
    can be unrolled, with the matrix.

    Args:
        iterations: of conjugate gradient, at most. Default: by the matrix.

    Example:
        >>> closed_form()(lambda x: jnp.sum((3.0 * x - 6.0) ** 2), jnp.zeros(2)).phi.tolist()
        [2.0, 2.0]
    """
    if iterations is not None:
        positive("iterations", iterations)

    def solve(loss: Any, phi0: PyTree, state: PyTree = None) -> Solution:
        flat0, unravel = ravel_pytree(phi0)
        slope = jax.grad(lambda flat: loss(unravel(flat)))
        g = slope(flat0)
        if iterations is None:
            d = jnp.linalg.solve(jax.jacfwd(slope)(flat0), g)
        else:
            d = cg(lambda v: exactly(slope, flat0, v), g, iterations).x
        residual = jnp.linalg.norm(slope(flat0 - d))
        enough = jnp.sqrt(jnp.finfo(flat0.dtype).eps) * (1 + jnp.linalg.norm(g))
        return Solution(unravel(flat0 - d), None, 1, residual <= enough, residual)

    return solve
