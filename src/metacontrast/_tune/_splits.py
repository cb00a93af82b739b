"""Data in three parts, checked."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from .._types import PyTree


def checked_splits(
    train: PyTree, valid: PyTree, stop: PyTree | None, batch_size: int | None, seed: int
) -> tuple[PyTree, PyTree, PyTree]:
    """The three splits as arrays of JAX; the third, if it is not given, is half of the second."""
    n = _rows("train", train)
    if batch_size is not None and batch_size > n:
        raise ValueError(f"batch_size: {batch_size} is more than the {n} rows of train; lower it.")
    rows = _rows("valid", valid)
    if stop is None:
        if rows < 2:
            raise ValueError("valid: has one row, which cannot be halved; give more, or stop too.")
        order = np.random.default_rng(seed).permutation(rows)
        take = lambda at: jax.tree.map(lambda x: np.asarray(x)[at], valid)
        valid, stop = take(order[: rows // 2]), take(order[rows // 2 :])
    _rows("stop", stop)
    return jax.tree.map(jnp.asarray, (train, valid, stop))


def _rows(name: str, data: PyTree) -> int:
    counts = {np.shape(x)[:1] for x in jax.tree.leaves(data)}
    if len(counts) != 1 or counts & {(), (0,)}:
        raise ValueError(
            f"{name}: all of its arrays must have one row an example, and at least one row; their "
            f"first dimensions are {sorted(counts)}."
        )
    for x in map(np.asarray, jax.tree.leaves(data)):
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            raise ValueError(f"{name}: has NaN or infinity; leave those rows out, or fill them.")
    return int(counts.pop()[0])
