"""phi as one vector: products with derivatives, and conjugate gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int

from ._loss import Loss
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

    `linear_residual` is `|b - A x| / |b|`, `curvature` the smallest `p' A p / p' p` met: if it
    is not positive, A is not positive definite, and `x` is that of the step before.
    """

    x: Vector
    iterations: Int[Array, ""]
    linear_residual: Float[Array, ""]
    curvature: Float[Array, ""]


class _Iterate(NamedTuple):
    x: Vector
    r: Vector  # b - A x
    p: Vector
    rr: Float[Array, ""]
    k: Int[Array, ""]
    curvature: Float[Array, ""]


def cg(
    matvec: Callable[[Vector], Vector],
    b: Vector,
    iterations: int,
    tol: Float[Array, ""] | float = 0.0,
) -> LinearSolution:
    """Solve `A x = b` for a symmetric positive definite A from x = 0.

    Stops after `iterations`, at the relative residual `tol` or at round-off, whichever comes
    first, and at the first direction of negative curvature. Under `vmap`, solved systems wait.

    Reference: Hestenes and Stiefel, 1952.
    """
    scale = b @ b
    enough = jnp.maximum(tol, 8 * jnp.finfo(b.dtype).eps) ** 2 * scale

    def unfinished(at: _Iterate) -> Bool[Array, ""]:
        return (at.k < iterations) & (at.rr > enough) & (at.curvature > 0)

    def step(at: _Iterate) -> _Iterate:
        ap = matvec(at.p)
        pap = at.p @ ap
        alpha = jnp.where(pap > 0, at.rr / pap, 0.0)
        x, r = at.x + alpha * at.p, at.r - alpha * ap
        rr = r @ r
        curvature = jnp.minimum(at.curvature, pap / (at.p @ at.p))
        return _Iterate(x, r, r + (rr / at.rr) * at.p, rr, at.k + 1, curvature)

    start = _Iterate(jnp.zeros_like(b), b, b, scale, jnp.array(0), jnp.array(jnp.inf, b.dtype))
    end = jax.lax.while_loop(unfinished, step, start)
    residual = jnp.sqrt(end.rr / jnp.where(scale > 0, scale, 1.0))
    return LinearSolution(end.x, end.k, residual, end.curvature)


def solve(a: Float[Array, "n n"], b: Vector) -> Vector:
    """`a^-1 b` by a factorisation, which is of float32 at least."""
    wide = jnp.promote_types(b.dtype, jnp.float32)
    return jnp.linalg.solve(a.astype(wide), b.astype(wide)).astype(b.dtype)


def jvp(function: Callable[[Vector], Array], at: Vector, v: Vector) -> Array:
    """The derivative of `function` at `at` along `v`."""
    return jax.jvp(function, (at,), (v,))[1]


def central_difference(function: Callable[[Vector], Array], at: Vector, v: Vector) -> Array:
    """The same by a central difference; the step balances its own error with round-off."""
    size = jnp.linalg.norm(v)
    step = jnp.cbrt(jnp.finfo(at.dtype).eps) * (1 + jnp.linalg.norm(at))
    away = step / jnp.where(size > 0, size, 1.0) * v
    return (function(at + away) - function(at - away)) * (size / (2 * step))
