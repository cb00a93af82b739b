"""Inner products and norms of trees, at any scale and in any precision."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ._types import PyTree, Scalar


def widened(x: jax.Array) -> jax.Array:
    """In float32 at least, or complex64: what sums of many numbers need."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def kinds(tree: PyTree) -> PyTree:
    """The tree with the type and shape of each leaf, in words, in its place."""
    return jax.tree.map(lambda x: f"{jnp.result_type(x)}{list(jnp.shape(x))}", tree)


def are_alike(a: PyTree, b: PyTree) -> bool:
    """Whether the two have the same structure, and leaves of the same types and shapes."""
    # Not `kinds(a) == kinds(b)`: not every node of a tree can be compared.
    (words, structure), (others, other) = (jax.tree.flatten(kinds(tree)) for tree in (a, b))
    return words == others and structure == other  # type: ignore[operator]


def dot(a: PyTree, b: PyTree) -> Scalar:
    """`sum_i a_i b_i` over all leaves; without conjugation, so that it is analytic in both."""
    product = lambda x, y: jnp.sum(widened(jnp.asarray(x)) * y)
    return jnp.sum(jnp.stack(jax.tree.leaves(jax.tree.map(product, a, b))))


def norm(tree: PyTree) -> Float[Array, ""]:
    """`sqrt(sum_i |x_i|^2)` over all leaves, with no square that overflows or is lost."""
    sizes = [jnp.abs(widened(jnp.asarray(leaf))) for leaf in jax.tree.leaves(tree)]
    sizes = [size for size in sizes if size.size]
    if not sizes:
        return jnp.zeros(())
    largest = jnp.max(jnp.stack([jnp.max(size) for size in sizes]))
    unit = jnp.where((largest > 0) & (largest < jnp.inf), largest, 1.0)
    return unit * jnp.sqrt(jnp.sum(jnp.stack([jnp.sum((size / unit) ** 2) for size in sizes])))


def is_finite(tree: PyTree) -> Bool[Array, ""]:
    """Whether all numbers in the tree are; what is not floating is."""
    floating = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in floating]))


def or_one(x: jax.Array) -> jax.Array:
    """x to divide by: 1 where it is 0, and NaN where it is NaN."""
    return jnp.where(x == 0, 1, x)
