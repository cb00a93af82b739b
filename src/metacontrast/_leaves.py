"""What the leaves of trees must be, for annotations."""

from __future__ import annotations

from functools import cache
from numbers import Number
from typing import Any

import jax
import jax.numpy as jnp


def check_floating(name: str, tree: Any) -> None:
    """Raise if a leaf of the tree cannot be learned."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        place = jax.tree_util.keystr(path) or "itself"
        try:
            dtype = jnp.result_type(leaf)
        except TypeError:
            raise TypeError(
                f"{name}: leaf {place} is {type(leaf).__name__}, which is no array; keep what is "
                "not learned outside (equinox.partition, a closure)."
            ) from None
        if not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(
                f"{name}: leaf {place} is {dtype}, but only floating leaves can be learned; "
                "convert it, or keep it in the task."
            )


def check_arrays(name: str, tree: Any) -> None:
    """Raise if a leaf of the tree is nothing that JAX computes with."""
    for leaf in jax.tree.leaves(tree):
        if not (isinstance(leaf, Number) or is_array(leaf)):
            paths = jax.tree_util.tree_leaves_with_path(tree)
            place = next(jax.tree_util.keystr(path) for path, x in paths if x is leaf) or "itself"
            raise TypeError(
                f"{name}: leaf {place} is {type(leaf).__name__}, which is no array; keep what is "
                "not computed with outside (a closure)."
            )


def is_array(x: Any) -> bool:
    """Of any library, of numbers or keys; or the shape of one."""
    return hasattr(x, "shape") and getattr(getattr(x, "dtype", "O"), "kind", "V") not in "OSU"


def is_key(x: Any) -> bool:
    """Whether it is one key of `jax.random`, of the new kind or the old."""
    dtype = getattr(x, "dtype", None)
    if dtype is not None and _is_key_type(dtype):
        return x.shape == ()
    return dtype == jnp.uint32 and x.shape in ((2,), (4,))


@cache
def _is_key_type(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jax.dtypes.prng_key)


def not_finite(tree: Any) -> bool:
    """Whether a number in the tree is known, and is NaN or infinite."""
    known = [x for x in jax.tree.leaves(tree) if not isinstance(x, jax.core.Tracer)]
    numbers = [x for x in known if jnp.issubdtype(jnp.result_type(x), jnp.inexact)]
    return any(not jnp.isfinite(x).all() for x in numbers)
