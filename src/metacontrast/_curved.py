"""Products with the curvature of a loss, by differences of gradients."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from ._conjugate_gradient import Goal, Product
from ._held import held
from ._linear import Vector, coarsest, own_size
from ._loss import Loss
from ._tree import or_one, widened
from ._types import PyTree


def curved(loss: Loss, phi_0: PyTree, damping: float, *, central: bool, watch: bool) -> Product:
    """`p -> (H + damping) p`, and `d2L_in/d(theta, z)dphi p` beside it, if that is to be watched.

    Differences of gradients, `[g(phi_0 + e p) - g(phi_0)] / e` or `[... - g(phi_0 - e p)] / 2e`,
    whose e balances the error of its order with round-off.
    """
    (x, unravel), eps = ravel_pytree(phi_0), coarsest(phi_0)
    power = 1 / 3 if central else 1 / 2
    # One of 0 is moved by the root of eps.
    step = eps**power * own_size(widened(x), eps, eps ** (1 / 2 - power))
    free, known = replace(loss, nudge=None), (loss.theta, loss.z)
    # Kinks are held where they are at phi_0, as those of exact products are.
    value = held(lambda at: free.at(*at[1:])(at[0]), (phi_0, *known))

    def slopes(way: Vector | float) -> tuple[Vector, Goal]:
        phi = unravel((widened(x) + way).astype(x.dtype))
        if not watch:
            return _flat(jax.grad(lambda phi: value((phi, *known)))(phi)), x[:0]
        slope, *others = jax.grad(value, allow_int=True)((phi, *known))
        return _flat(slope), _flat(others)

    here = None if central else slopes(0.0)

    def product(p: Vector) -> tuple[Vector, Goal]:
        e = step / or_one(jnp.max(jnp.abs(p)))
        behind, length = (slopes(-e * p), 2 * e) if here is None else (here, e)
        by_phi, others = ((b - a) / length for a, b in zip(behind, slopes(e * p), strict=True))
        return by_phi + damping * p, others

    return product


def _flat(tree: PyTree) -> Vector:
    leaves = [leaf for leaf in jax.tree.leaves(tree) if leaf.dtype != jax.dtypes.float0]
    return ravel_pytree([widened(leaf) for leaf in leaves])[0]
