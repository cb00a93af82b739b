"""Solvers with second derivatives: Newton's method, by conjugate gradient or in closed form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._conjugate_gradient import cg
from .._linear import Vector, flat, jvp, solve
from .._loss import Loss
from .._must import Count, Tolerance
from .._precision import matmul
from .._tree import norm
from .._types import PyTree, Scalar, Step
from ._base import Solver, State

HALVINGS = 20


@dataclass(frozen=True)
class NewtonCG(Solver):
    """What `newton_cg` returns. Its memory: the loss and the gradient at phi."""

    iterations: int

    def init(self, loss: Loss, phi: PyTree, memory: PyTree = None) -> State:
        """The loss and its gradient where learning starts."""
        at = flat(loss, phi)
        value, slope = jax.value_and_grad(at.loss)(at.x)
        return State(phi, (value, slope), norm(slope))

    def step(self, loss: Loss, state: State, t: Step) -> State:
        """Solve for the Newton direction, and go along it as far as the loss falls."""
        at, (value, slope) = flat(loss, state.phi), state.memory
        forcing = jnp.minimum(0.5, jnp.sqrt(norm(slope)))
        solution = cg(lambda v: jvp(at.slope, at.x, v), slope, self.iterations, forcing)
        at_once = (solution.curvature <= 0) & (solution.iterations == 1)
        d = jnp.where(at_once, slope, solution.x)  # NaN where the curvature is
        x = _line_search(at.loss, at.x, value, d, matmul(slope, d))
        value, slope = jax.value_and_grad(at.loss)(x)
        return State(at.unravel(x), (value, slope), norm(slope))


def newton_cg(tol: Tolerance, max_steps: Count = 100, iterations: Count = 100) -> Solver:
    """Newton's method whose systems are solved by conjugate gradient: "Hessian-free" learning.

        phi <- phi - a d,   H d = g  to a relative residual of min(1/2, sqrt |g|),

    which converges superlinearly. Where H has negative curvature, d is what conjugate gradient had
    reached before it met it, or g itself; a is halved until the loss falls. On all data.

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
    return NewtonCG(iterations, steps=max_steps, tol=tol)


def _line_search(
    loss: Callable[[Vector], Scalar], x: Vector, value: Scalar, d: Vector, fall: Scalar
) -> Vector:
    """`x - a d` with the first `a` of 1, 1/2, 1/4 ... at which the loss falls enough."""
    # At a minimum the fall drowns in the value's round-off, but the steps still bring phi closer.
    allowed = 8 * jnp.finfo(x.dtype).eps * jnp.abs(value)

    def too_far(a: Float[Array, ""]) -> Bool[Array, ""]:
        enough = loss(x - a * d) <= value - 1e-4 * a * fall + allowed
        return jnp.logical_not(enough) & (a > 0.5**HALVINGS)

    a = jax.lax.while_loop(too_far, lambda a: a / 2, jnp.ones((), x.dtype))
    return x - a * d


@dataclass(frozen=True)
class ClosedForm(Solver):
    """What `closed_form` returns: one Newton step."""

    iterations: int | None

    def step(self, loss: Loss, state: State, t: Step) -> State:
        """`phi - H^-1 g`."""
        at = flat(loss, state.phi)
        slope = at.slope(at.x)
        if self.iterations is None:
            d = solve(jax.jacfwd(at.slope)(at.x), slope)
        else:
            d = cg(lambda v: jvp(at.slope, at.x, v), slope, self.iterations).x
        residual = norm(at.slope(at.x - d))
        enough = jnp.sqrt(jnp.finfo(at.x.dtype).eps) * (1 + norm(slope))
        return State(at.unravel(at.x - d), None, residual, residual <= enough)


def closed_form(iterations: Count | None = None) -> Solver:
    """The minimiser of a quadratic loss, `phi_0 - H^-1 g(phi_0)`, at once: ridge regression.

    One Newton step, on all data. By the matrix H itself, or by conjugate gradient for many weights.
    On another loss it is one step and no minimum: the solution's `converged`, and its `residual`,
    tell. It can be unrolled, with the matrix.

    Args:
        iterations: of conjugate gradient, at most. Default: by the matrix.

    Example:
        >>> closed_form()(lambda x: jnp.sum((3.0 * x - 6.0) ** 2), jnp.zeros(2)).phi.tolist()
        [2.0, 2.0]
    """
    return ClosedForm(iterations, steps=1, sampled=False)
