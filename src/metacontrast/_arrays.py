"""Trees of arrays of any library, NumPy's, JAX's or PyTorch's, as numbers on the host."""

from __future__ import annotations

import math
from typing import TypeAlias

import jax
import numpy as np
from jaxtyping import Float

from ._types import PyTree

Numbers: TypeAlias = Float[np.ndarray, "..."]


def total(x: PyTree) -> float:
    """The sum of an array, or a number itself."""
    # By the array's own arithmetic: it may lie on a device that NumPy cannot read.
    return float(x.sum() if np.ndim(x) else x)


def norm(tree: PyTree) -> float:
    """The Euclidean norm, of numbers so small or large that their squares would be no numbers."""
    leaves = [x for x in jax.tree.leaves(tree) if math.prod(np.shape(x))]
    if not leaves:
        return 0.0
    largest = float(np.max([float(abs(x).max() if np.ndim(x) else abs(x)) for x in leaves]))
    if not (largest > 0 and math.isfinite(largest)):
        return largest
    return largest * math.sqrt(sum(total((x / largest) ** 2) for x in leaves))


def is_narrow(x: PyTree) -> bool:
    """Whether an array has less than 32 bits a number."""
    return hasattr(x, "dtype") and x.dtype.itemsize < 4


def widened(x: PyTree) -> PyTree:
    """In float32 at least; of its own library."""
    if not is_narrow(x):
        return x
    return x.float() if hasattr(x, "detach") else x.astype(np.float32)


def flat(tree: PyTree) -> Numbers:
    """The numbers of the tree, of NumPy's or JAX's arrays, in one row."""
    return np.concatenate([np.ravel(np.asarray(x, float)) for x in jax.tree.leaves(tree)])
