"""Conjugate gradient, for a solution or for the sake of what depends on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ._linear import Vector
from ._tree import dot, norm, or_one, widened

LAST, OF_ALL = 2, 3  # `goal_cg` stops by the changes of its last steps: two, or a third of all
Goal: TypeAlias = Float[Array, " m"]
Product: TypeAlias = Callable[[Vector], tuple[Vector, Goal]]  # p -> A p, B p


class LinearSolution(NamedTuple):
    """`A x = b` as far as it was solved.

    `linear_residual` is `|b - A x| / |b|`, `curvature` the smallest `p' A p / p' p` met. If it is
    negative, A is indefinite, if it is 0, A is singular to round-off, and `x` is that of the step
    before; if it is NaN, which an infinite one is taken for, so is x. `definite` is whether A is
    positive, where more than the curvature tells it; `resolved` whether no step was made along a
    curvature that is noise beside larger ones, which were met later.
    """

    x: Vector
    iterations: Int[Array, ""]
    linear_residual: Float[Array, ""]
    curvature: Float[Array, ""]
    definite: Bool[Array, ""] | bool = True
    resolved: Bool[Array, ""] | bool = True


class _Iterate(NamedTuple):
    x: Vector
    r: Vector  # b - A x
    p: Vector
    rr: Float[Array, ""]
    rz: Float[Array, ""]  # r' M r
    k: Int[Array, ""]
    curvature: Float[Array, ""]
    least: Float[Array, ""]  # curvature along which a step was made
    largest: Float[Array, ""]  # curvature met, or |A p| / |p|
    rest: Float[Array, ""]  # of the curvature along r, what is that along the last p
    goal: Goal  # B x
    changes: Float[Array, " steps"]  # of it, in every step


def cg(
    matvec: Callable[[Vector], Vector],
    b: Vector,
    iterations: int,
    tol: Float[Array, ""] | float = 0.0,
    noise: float | None = None,
) -> LinearSolution:
    """Solve `A x = b` for a symmetric positive definite A from x = 0.

    Stops after `iterations`, at the relative residual `tol` or at round-off, whichever comes
    first, and at the first direction without positive curvature. b may have any scale: the system
    is solved for `b / |b|`, and inner products are of float32 at least. Under `vmap`, solved
    systems wait.

    Args:
        matvec: `A p`.
        b: the right side.
        iterations: at most; a product each.
        tol: on `|b - A x| / |b|`.
        noise: a curvature below so many times the largest met is taken for 0. Default: for
            products that are exact to round-off.

    Reference: Hestenes and Stiefel, 1952.
    """
    return goal_cg(lambda p: (matvec(p), p[:0]), b, iterations, tol=tol, noise=noise)[0]


def goal_cg(
    product: Product,
    b: Vector,
    iterations: int,
    goal_tol: float | None = None,
    *,
    tol: Float[Array, ""] | float = 0.0,
    noise: float | None = None,
    start: Vector | None = None,
    inverse: Callable[[Vector], Vector] | None = None,
) -> tuple[LinearSolution, Float[Array, ""]]:
    """`cg` for the sake of `B x`, which it watches: it stops when that changes no more.

    The change of `B x` in a step is `alpha B p`, had beside `A p`. What the last steps changed is
    the error of the step before them, and with it that of the last one, which is smaller, so long
    as more steps are looked back over than it takes to fall by a good part: two at least, and a
    third of all, since what converges slowly also stalls for long.

    Args:
        product: `p -> (A p, B p)`.
        b: the right side.
        iterations: at most; a product each.
        goal_tol: on the last changes of `B x`, summed, over `|B x|`. Default: it is not looked at.
        tol: as of `cg`.
        noise: as of `cg`.
        start: a direction to begin with, of any length: as far along it as is best, for a product.
            One of no positive curvature is left out.
        inverse: the preconditioner M, which should be near `A^-1` and must be positive definite.

    Returns:
        The solution, and the last changes of `B x`, summed, over `|B x|`.

    Reference: the delay by some steps: Hestenes and Stiefel, 1952; Strakos and Tichy, 2002.
    """
    size, eps = norm(b), float(jnp.finfo(b.dtype).eps)
    noise = 16 * eps if noise is None else noise
    watched = 0 if goal_tol is None else iterations

    def unfinished(at: _Iterate) -> Bool[Array, ""]:
        unsolved = at.rr > jnp.maximum(tol, 8 * eps) ** 2
        going = (at.k < iterations) & unsolved & (at.curvature > 0)
        # Not "changes > goal_tol", by which a NaN would pass for convergence.
        return going if goal_tol is None else going & ~(_change(at) <= goal_tol)

    unit = (widened(b) / or_one(size)).astype(b.dtype)
    first = _first(product, unit, start, inverse, watched)
    end = jax.lax.while_loop(unfinished, lambda at: _step(product, inverse, noise, at), first)
    x = (size * widened(end.x)).astype(b.dtype)
    resolved = end.least > noise * end.largest
    found = LinearSolution(x, end.k, jnp.sqrt(end.rr), end.curvature, resolved=resolved)
    return found, _change(end)


def _step(
    product: Product, inverse: Callable[[Vector], Vector] | None, noise: float, at: _Iterate
) -> _Iterate:
    ap, bp = product(at.p)
    pap, pp = dot(at.p, ap), dot(at.p, at.p)
    largest = jnp.maximum(at.largest, jnp.sqrt(dot(ap, ap) / pp))
    if inverse is None:  # along r, by Lanczos' coefficients: p may be soft where r is not
        largest = jnp.maximum(largest, pap / at.rz + at.rest)
    # An infinite one would be a step of 0, and pass for a solution.
    here = jnp.where(jnp.isfinite(pap), pap / pp, jnp.nan)
    # What noise leaves of a curvature of 0 would be a step of 1 / noise.
    here = jnp.where(jnp.abs(here) <= noise * largest, 0.0, here)
    alpha = jnp.where(here > 0, at.rz / pap, jnp.where(here <= 0, 0.0, jnp.nan))
    moved = lambda old, way: old + alpha.astype(old.dtype) * way
    x, r, goal = moved(at.x, at.p), moved(at.r, -ap), moved(at.goal, bp)
    rr = dot(r, r)
    z, rz = (r, rr) if inverse is None else _preconditioned(inverse, r)
    ahead = rz / at.rz
    p = z + ahead.astype(z.dtype) * at.p
    curvature = jnp.minimum(at.curvature, here)
    least = jnp.where(here > 0, jnp.minimum(at.least, here), at.least)
    change, changes = alpha * norm(bp), at.changes
    if len(changes):
        changes = changes.at[at.k].set(change.astype(changes.dtype))
    rest, k = ahead / alpha, at.k + 1
    return _Iterate(x, r, p, rr, rz, k, curvature, least, largest, rest, goal, changes)


def _preconditioned(
    inverse: Callable[[Vector], Vector], r: Vector
) -> tuple[Vector, Float[Array, ""]]:
    z = inverse(r)
    return z, dot(r, z)


def _change(at: _Iterate) -> Float[Array, ""]:
    """Of the goal in the last steps, over what it is."""
    steps = jnp.arange(len(at.changes))
    last = jnp.maximum(LAST, at.k // OF_ALL)
    recent = ((steps >= at.k - last) & (steps < at.k)) | (at.k < LAST)
    return jnp.sum(jnp.where(recent, at.changes, 0)) / norm(at.goal)


def _first(
    product: Product,
    b: Vector,
    start: Vector | None,
    inverse: Callable[[Vector], Vector] | None,
    watched: int,
) -> _Iterate:
    """Where `goal_cg` begins: at 0, or as far along `start` as is best."""
    x, r, k = jnp.zeros_like(b), b, 0
    if start is None:
        goal = jnp.zeros_like(jax.eval_shape(product, b)[1])
    else:
        p = (widened(start) / or_one(norm(start))).astype(b.dtype)
        ap, bp = product(p)
        pap = dot(p, ap)
        alpha = (dot(p, b) / or_one(pap)).astype(b.dtype)
        x, change, goal = (jnp.where(pap > 0, alpha * way, 0) for way in (p, ap, bp))
        r, k = b - change, 1
    rr = dot(r, r)
    z, rz = (r, rr) if inverse is None else _preconditioned(inverse, r)
    far, none = jnp.full_like(rr, jnp.inf), jnp.zeros_like(rr)
    changes = jnp.full(watched, far)
    return _Iterate(x, r, z, rr, rz, jnp.array(k), far, far, none, none, goal, changes)
