"""What a learner has met of the curvature on its way, as an approximation of its inverse."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from ._linear import solve
from ._precision import matmul
from ._types import PyTree

FLOOR = 1e-3  # of the largest second moment's root, below which none is believed


class LowRank(NamedTuple):
    """`scale + basis' middle basis`."""

    scale: Float[Array, ""]
    basis: Float[Array, "k n"]
    middle: Float[Array, "k k"]

    def apply(self, g: PyTree) -> PyTree:
        """The product with `g`, of phi's structure."""
        r, unravel = ravel_pytree(g)
        low = matmul(self.basis.T, matmul(self.middle, matmul(self.basis, r)))
        return unravel((self.scale * r + low).astype(r.dtype))


class Diagonal(NamedTuple):
    """The inverse of a curvature of each weight by itself."""

    curvature: PyTree

    def apply(self, g: PyTree) -> PyTree:
        """The product with `g`, of phi's structure."""
        return jax.tree.map(lambda x, c: (x / c).astype(x.dtype), g, self.curvature)


def quasi_newton(steps: PyTree, changes: PyTree, newest: Int[Array, ""]) -> LowRank:
    """The inverse curvature that limited-memory BFGS makes of its last steps.

    Args:
        steps: of phi, a row each, the rows written in turns. Those of no positive curvature, and
            rows of zeros, count for nothing.
        changes: of the slope in these.
        newest: the row written last.

    Reference: Byrd, Nocedal and Schnabel, 1994, whose products are two of matrices.
    """
    rows = lambda tree: jax.vmap(lambda row: ravel_pytree(row)[0])(tree)
    s, y = (jnp.roll(rows(tree), -(newest + 1), axis=0) for tree in (steps, changes))
    bent = jnp.sum(s * y, axis=1) > 0
    s, y = (jnp.where(bent[:, None], x, 0) for x in (s, y))
    products, squares = matmul(s, y.T), matmul(y, y.T)
    last = len(bent) - 1 - jnp.argmax(bent[::-1])
    scale = jnp.where(bent[last], products[last, last] / squares[last, last], 1.0)
    n, d = jnp.eye(len(bent), dtype=s.dtype), jnp.diag(products)
    upper = jax.vmap(lambda column: solve(jnp.triu(products) + jnp.diag(1.0 - bent), column))(n).T
    corner = matmul(matmul(upper.T, jnp.diag(d) + scale * squares), upper)
    middle = jnp.block([[corner, -scale * upper.T], [-scale * upper, jnp.zeros_like(n)]])
    return LowRank(scale, jnp.concatenate([s, y]), middle)


def second_moments(nu: PyTree) -> Diagonal:
    """The roots of an Adam's second moments, which stand for the size of the curvature."""
    roots = jax.tree.map(jnp.sqrt, nu)
    largest = jnp.max(jnp.stack([jnp.max(root) for root in jax.tree.leaves(roots)]))
    floor = jnp.where(largest > 0, FLOOR * largest, 1.0)
    return Diagonal(jax.tree.map(lambda root: root + floor.astype(root.dtype), roots))
