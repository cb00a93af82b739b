"""phi as one vector: products with derivatives, and conjugate gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int

from ._loss import Loss
from ._tree import dot, norm, or_one, widened
from ._types import PyTree, Scalar

Vector: TypeAlias = Float[Array, " n"]


class Flat(NamedTuple):
    """A loss as a function of a vector, where that vector is, and the way back to a tree."""

    loss: Callable[[Vector], Scalar]
    x: Vector
    unravel: Callable[[Vector], PyTree]

    def slope(self, x: Vector) -> Vector:
        """The gradient at x."""
        return jax.grad(self.loss)(x)


def flat(loss: Loss, phi: PyTree) -> Flat:
    """The loss around `phi`."""
    x, unravel = ravel_pytree(phi)
    return Flat(lambda x: loss(unravel(x)), x, unravel)


class LinearSolution(NamedTuple):
    """`A x = b` as far as it was solved.

    `linear_residual` is `|b - A x| / |b|`, `curvature` the smallest `p' A p / p' p` met. If it is
    negative, A is indefinite, if it is 0, A is singular to round-off, and `x` is that of the step
    before; if it is NaN, which an infinite one is taken for, so is x. `definite` is whether A is
    positive, where more than the curvature tells it.
    """

    x: Vector
    iterations: Int[Array, ""]
    linear_residual: Float[Array, ""]
    curvature: Float[Array, ""]
    definite: Bool[Array, ""] | bool = True


class _Iterate(NamedTuple):
    x: Vector
    r: Vector  # b - A x
    p: Vector
    rr: Float[Array, ""]
    k: Int[Array, ""]
    curvature: Float[Array, ""]
    largest: Float[Array, ""]  # curvature met


def cg(
    matvec: Callable[[Vector], Vector],
    b: Vector,
    iterations: int,
    tol: Float[Array, ""] | float = 0.0,
) -> LinearSolution:
    """Solve `A x = b` for a symmetric positive definite A from x = 0.

    Stops after `iterations`, at the relative residual `tol` or at round-off, whichever comes
    first, and at the first direction without positive curvature. b may have any scale: the system
    is solved for `b / |b|`, and inner products are of float32 at least. Under `vmap`, solved
    systems wait.

    Reference: Hestenes and Stiefel, 1952.
    """
    size = norm(b)
    eps = jnp.finfo(b.dtype).eps
    enough = jnp.maximum(tol, 8 * eps) ** 2
    unit = (widened(b) / or_one(size)).astype(b.dtype)

    def unfinished(at: _Iterate) -> Bool[Array, ""]:
        return (at.k < iterations) & (at.rr > enough) & (at.curvature > 0)

    def step(at: _Iterate) -> _Iterate:
        ap = matvec(at.p)
        pap, pp = dot(at.p, ap), dot(at.p, at.p)
        # An infinite one would be a step of 0, and pass for a solution.
        here = jnp.where(jnp.isfinite(pap), pap / pp, jnp.nan)
        # What round-off leaves of a curvature of 0 would be a step of 1 / eps.
        here = jnp.where(jnp.abs(here) <= 16 * eps * at.largest, 0.0, here)
        alpha = jnp.where(here > 0, at.rr / pap, jnp.where(here <= 0, 0.0, jnp.nan))
        x = at.x + alpha.astype(b.dtype) * at.p
        r = at.r - alpha.astype(b.dtype) * ap
        rr = dot(r, r)
        curvature = jnp.minimum(at.curvature, here)
        p = r + (rr / at.rr).astype(b.dtype) * at.p
        return _Iterate(x, r, p, rr, at.k + 1, curvature, jnp.maximum(at.largest, jnp.abs(here)))

    rr = dot(unit, unit)
    most = jnp.full_like(rr, jnp.inf)
    start = _Iterate(jnp.zeros_like(b), unit, unit, rr, jnp.array(0), most, jnp.zeros_like(rr))
    end = jax.lax.while_loop(unfinished, step, start)
    x = (size * widened(end.x)).astype(b.dtype)
    return LinearSolution(x, end.k, jnp.sqrt(end.rr), end.curvature)


def solve(a: Float[Array, "n n"], b: Vector) -> Vector:
    """`a^-1 b` by a factorisation, which is of float32 at least; NaN if a is not finite."""
    wide = jnp.promote_types(b.dtype, jnp.float32)
    x = jnp.linalg.solve(a.astype(wide), b.astype(wide)).astype(b.dtype)
    # Dividing by what is infinite would leave something finite.
    return jnp.where(jnp.all(jnp.isfinite(a)), x, jnp.nan)


def is_positive(a: Float[Array, "n n"]) -> Bool[Array, ""]:
    """Whether the symmetric `a` has no eigenvalue below 0, to within round-off; NaN has."""
    a = widened(a)
    size = jnp.max(jnp.sum(jnp.abs(a), axis=-1))
    raised = a + 16 * jnp.finfo(a.dtype).eps * size * jnp.eye(len(a), dtype=a.dtype)
    return jnp.all(jnp.isfinite(jnp.linalg.cholesky(raised))) | (size == 0)


def jvp(function: Callable[[Vector], Array], at: Vector, v: Vector) -> Array:
    """The derivative of `function` at `at` along `v`."""
    return jax.jvp(function, (at,), (v,))[1]


def central_difference(function: Callable[[Vector], Array], at: Vector, v: Vector) -> Array:
    """The same by a central difference; the step balances its own error with round-off."""
    size = norm(v)
    step = jnp.cbrt(jnp.finfo(at.dtype).eps) * (1 + norm(at))
    away = (step * (widened(v) / or_one(size))).astype(at.dtype)
    ahead, behind = function(at + away), function(at - away)
    return ((widened(ahead) - behind) * (size / (2 * step))).astype(ahead.dtype)
