"""Tasks, some at a time, reduced to sums as they come."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from .._problem import PyTree
from ._mesh import axis_of_tasks, spread


def summed(
    one: Callable[..., tuple[jax.Array, PyTree]], rows: PyTree, at_a_time: int, mesh: Mesh | None
) -> tuple[jax.Array, PyTree]:
    """How many rows counted, and the sum of what those gave: `one(*row) -> (counts, values)`.

    `at_a_time` rows run side by side, on all devices; of those that are done only the sum is kept.
    """
    n = len(jax.tree.leaves(rows)[0])
    if at_a_time == n:
        return _side_by_side(one, rows, n, mesh)
    blocks = jax.tree.map(lambda x: x.reshape(n // at_a_time, at_a_time, *x.shape[1:]), rows)
    first = jax.tree.map(lambda x: x[0], blocks)
    nothing = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype),
        jax.eval_shape(lambda block: _side_by_side(one, block, at_a_time, mesh), first),
    )

    def add(total: PyTree, block: PyTree) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, total, _side_by_side(one, block, at_a_time, mesh)), None

    return jax.lax.scan(add, nothing, blocks)[0]


def _side_by_side(one: Any, rows: PyTree, n: int, mesh: Mesh | None) -> tuple[jax.Array, PyTree]:
    if n == 1:  # without an axis of tasks, which would make every branch a choice between both
        counts, values = one(*jax.tree.map(lambda x: x[0], rows))
        return counts.astype(int), jax.tree.map(lambda x: jnp.where(counts, x, 0), values)
    rows, real = spread(rows, mesh)
    counts, values = jax.vmap(one, spmd_axis_name=axis_of_tasks(mesh))(*rows)
    counts &= real

    def total(x: jax.Array) -> jax.Array:
        # Selected, not weighted: NaN * 0 is NaN.
        return jnp.sum(jnp.where(counts.reshape(-1, *[1] * (x.ndim - 1)), x, 0), axis=0)

    return jnp.sum(counts), jax.tree.map(total, values)
