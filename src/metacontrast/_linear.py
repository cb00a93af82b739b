"""phi as one vector: products with derivatives, and small systems."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float

from ._loss import Loss
from ._tree import norm, or_one, widened
from ._types import PyTree, Scalar

Vector: TypeAlias = Float[Array, " n"]
ZERO = 0.6  # power of eps below which a component is what cancellation leaves of 0


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


def coarsest(tree: PyTree) -> float:
    """The precision of the least precise leaf."""
    return max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(tree))


def own_size(x: Vector, eps: float, unit: float) -> Scalar:
    """The largest component of x, as a measure of steps; one that is 0, to eps^0.6, has `unit`."""
    largest = jnp.max(jnp.abs(x))
    return jnp.where(largest > eps**ZERO, largest, unit)


def central_difference(function: Callable[[Vector], Array], at: Vector, v: Vector) -> Array:
    """The same by a central difference; the step balances its own error with round-off."""
    size = norm(v)
    step = jnp.cbrt(jnp.finfo(at.dtype).eps) * (1 + norm(at))
    away = (step * (widened(v) / or_one(size))).astype(at.dtype)
    ahead, behind = function(at + away), function(at - away)
    return ((widened(ahead) - behind) * (size / (2 * step))).astype(ahead.dtype)
