"""Products with derivatives, and conjugate gradient that says when a matrix is not positive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Solved(NamedTuple):
    """`A x = b` as far as `cg` got.

    `linear_residual` is `|b - A x| / |b|`, `curvature` the smallest `p' A p / p' p` met: if it
    is not positive, A is not positive definite, and `x` is what had been found before.
    """

    x: jax.Array
    iterations: jax.Array
    linear_residual: jax.Array
    curvature: jax.Array


def cg(
    matvec: Callable[[jax.Array], jax.Array], b: jax.Array, iterations: int, tol: Any = 0.0
) -> Solved:
    """Solve `A x = b` for a symmetric positive definite A from x = 0.

    Stops after `iterations`, at the relative residual `tol` or at round-off, whichever comes
    first, and at the first direction of negative curvature. Under `vmap`, solved systems wait.

    Reference: Hestenes and Stiefel, 1952.
    """
    scale = b @ b
    enough = jnp.maximum(tol, 8 * jnp.finfo(b.dtype).eps) ** 2 * scale

    def unfinished(carry: tuple[Any, ...]) -> jax.Array:
        _, _, _, rr, k, curvature = carry
        return (k < iterations) & (rr > enough) & (curvature > 0)

    def step(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        x, r, p, rr, k, curvature = carry
        ap = matvec(p)
        pap = p @ ap
        alpha = jnp.where(pap > 0, rr / pap, 0.0)
        x, r = x + alpha * p, r - alpha * ap
        new = r @ r
        return x, r, r + (new / rr) * p, new, k + 1, jnp.minimum(curvature, pap / (p @ p))

    start = (jnp.zeros_like(b), b, b, scale, jnp.array(0), jnp.array(jnp.inf, b.dtype))
    x, _, _, rr, k, curvature = jax.lax.while_loop(unfinished, step, start)
    return Solved(x, k, jnp.sqrt(rr / jnp.where(scale > 0, scale, 1.0)), curvature)


def exactly(function: Callable[[jax.Array], Any], at: jax.Array, v: jax.Array) -> Any:
    """The derivative of `function` at `at` along `v`."""
    return jax.jvp(function, (at,), (v,))[1]


def differenced(function: Callable[[jax.Array], Any], at: jax.Array, v: jax.Array) -> Any:
    """The same by a central difference; the step balances its own error with round-off."""
    size = jnp.linalg.norm(v)
    step = jnp.cbrt(jnp.finfo(at.dtype).eps) * (1 + jnp.linalg.norm(at))
    away = step / jnp.where(size > 0, size, 1.0) * v
    return (function(at + away) - function(at - away)) * (size / (2 * step))
