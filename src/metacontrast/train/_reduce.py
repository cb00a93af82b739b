"""Tasks, some at a time, reduced to sums as they come."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from .._types import PyTree
from ._layout import Layout

Row: TypeAlias = tuple[PyTree, ...]
One: TypeAlias = Callable[..., tuple[jax.Array, PyTree, PyTree]]


def sum_over_tasks(
    one: One, rows: Row, batch: int, layout: Layout
) -> tuple[Int[Array, ""], PyTree, PyTree]:
    """How many rows counted, the sum of their values, and that of what counts of every row.

    `one(*row) -> (counts, values, always)`. `batch` rows run side by side, on all devices; of those
    that are done only the sums are kept.
    """
    n = len(jax.tree.leaves(rows)[0])
    if batch == n:
        return _side_by_side(one, rows, n, layout)
    batches = jax.tree.map(lambda x: x.reshape(n // batch, batch, *x.shape[1:]), rows)
    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype),
        jax.eval_shape(lambda rows: _side_by_side(one, first_row(rows), batch, layout), batches),
    )

    def add(total: PyTree, rows: Row) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, total, _side_by_side(one, rows, batch, layout)), None

    return jax.lax.scan(add, zeros, batches)[0]


def first_row(rows: PyTree) -> PyTree:
    """The first of them, without the axis of rows."""
    return jax.tree.map(lambda x: x[0], rows)


def _side_by_side(
    one: One, rows: Row, n: int, layout: Layout
) -> tuple[Int[Array, ""], PyTree, PyTree]:
    if n == 1:  # without an axis of tasks, which would make every branch a choice between both
        counts, values, always = one(*first_row(rows))
        return counts.astype(int), jax.tree.map(lambda x: jnp.where(counts, x, 0), values), always
    rows, real = layout.shard_tasks(rows)
    counts, values, always = jax.vmap(one, spmd_axis_name=layout.task_axis)(*rows)
    counts &= real

    def total(of: jax.Array, x: jax.Array) -> jax.Array:
        # Selected, not weighted: NaN * 0 is NaN.
        return jnp.sum(jnp.where(of.reshape(-1, *[1] * (x.ndim - 1)), x, 0), axis=0)

    total_of = lambda of, tree: jax.tree.map(partial(total, of), tree)
    return jnp.sum(counts), total_of(counts, values), total_of(real, always)
