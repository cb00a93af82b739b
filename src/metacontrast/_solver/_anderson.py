"""Gradient descent with Anderson acceleration."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from .._linear import flat
from .._loss import Loss
from .._must import Count, Positive, Tolerance
from .._precision import matmul
from .._tree import norm
from .._types import PyTree, Step
from ._base import Solver, State


@dataclass(frozen=True)
class Anderson(Solver):
    """What `anderson` returns. Its memory: the gradient, and the last differences of both."""

    rate: float
    differences: int

    def init(self, loss: Loss, phi: PyTree, memory: PyTree = None) -> State:
        """No differences yet: those of another loss would mislead it."""
        at = flat(loss, phi)
        slope = at.slope(at.x)
        none = jnp.zeros((self.differences, at.x.size), at.x.dtype)
        return State(phi, (slope, none, none), norm(slope))

    def step(self, loss: Loss, state: State, t: Step) -> State:
        """Combine the last steps so that their gradients cancel."""
        at, (slope, xs, gs) = flat(loss, state.phi), state.memory
        c = _combination(gs, slope)
        new = at.x - matmul(c, xs) - self.rate * (slope - matmul(c, gs))
        new_slope = at.slope(new)
        slot = t % self.differences
        xs, gs = xs.at[slot].set(new - at.x), gs.at[slot].set(new_slope - slope)
        return State(at.unravel(new), (new_slope, xs, gs), norm(new_slope))


def anderson(
    rate: Positive, tol: Tolerance, max_steps: Count = 1000, differences: Count = 5
) -> Solver:
    """Gradient descent with Anderson acceleration, on all data until converged.

    Each step combines the last ones so that their gradients, taken as linear, cancel:

        phi <- (phi - X c) - rate (g - G c),    c = argmin |g - G c|,

    with X and G the last differences of phi and of the gradient g. On a quadratic loss it is
    equivalent to GMRES as long as nothing is forgotten. Meant for losses that are nearly quadratic
    where the phase starts, as every nudged phase is; far from a minimum it can diverge.

    Args:
        rate: of gradient descent, at which that alone would converge; positive.
        tol: on the Euclidean norm of `dL/dphi`; positive.
        max_steps: at most; the solution then says `converged=False`.
        differences: how many are kept.

    Reference: Anderson, 1965; Walker and Ni, 2011.

    Example:
        >>> loss = lambda x: jnp.sum(jnp.array([1.0, 10.0]) * (x - 1.0) ** 2)
        >>> solution = anderson(rate=0.05, tol=1e-5)(loss, jnp.zeros(2))
        >>> solution.phi.round(3).tolist(), bool(solution.steps < 10)
        ([1.0, 1.0], True)
    """
    return Anderson(rate, differences, steps=max_steps, tol=tol)


def _combination(gs: Float[Array, "m n"], g: Float[Array, " n"]) -> Float[Array, " m"]:
    """`argmin_c |g - c @ gs|`; each row at its own scale, because they shrink as it converges."""
    sizes = jnp.linalg.norm(gs, axis=1)
    rows = gs / jnp.where(sizes > 0, sizes, 1.0)[:, None]
    unit = jnp.eye(len(gs), dtype=g.dtype)
    gram = matmul(rows, rows.T) + 100 * jnp.finfo(g.dtype).eps * unit
    return jnp.linalg.solve(gram, matmul(rows, g)) / jnp.where(sizes > 0, sizes, 1.0)
