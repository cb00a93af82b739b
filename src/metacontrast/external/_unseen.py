"""Which leaves of theta no loss depends on, found by displacing them."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import numpy as np

from .._flags import unseen
from .._types import PyTree

# In units of `max(1, |x|)`: that of numerical slopes, and others that lead out of dead zones.
SIZES = (float(np.finfo(float).eps ** (1 / 3)), 0.01, 1.0, 10.0)
INSTEAD = (
    "Add to the inner loss what ties it to phi (a pull, lambda (phi - theta)^2, to where learning "
    "starts), or leave it out of theta; where only the start or the solver sees it, metacontrast's "
    "Unrolled (in JAX) and Evolution can learn it."
)
Losses = Callable[[PyTree, PyTree], tuple[float, float]]
Slope = Callable[[PyTree], PyTree]


def refuse_unseen(names: list[str], instead: str = INSTEAD) -> None:
    """Raise if there are any, and say what to do `instead`."""
    if names:
        raise ValueError(unseen(names, instead))


def unseen_leaves(losses: Losses, slope: Slope | None, theta: PyTree, phi: PyTree) -> list[str]:
    """The names of the leaves of theta that change neither loss, at `phi` and beside it.

    A derivative that happens to be 0 makes no leaf unseen: a leaf must leave both losses as they
    are, to the last bit, when it is displaced by each of `SIZES`, both ways, at both phis. What
    raises or is NaN there counts as a change.

    Args:
        losses: `(phi, theta) -> (inner, outer)`.
        slope: `phi -> dL/dtheta` with a nudge, which spares the losses where it is not 0.
        theta: the meta-parameters.
        phi: where the free phase ended.

    Example: the second leaf is seen beside phi = 0 alone, the third not at all.
        >>> losses = lambda phi, theta: ((phi - theta[0]) ** 2, theta[1] * phi)
        >>> unseen_leaves(losses, None, [1.0, 2.0, 3.0], 0.0)
        ['[2]']
    """
    paths, structure = jax.tree_util.tree_flatten_with_path(theta)
    leaves = [leaf for _, leaf in paths]
    suspects = [i for i, leaf in enumerate(leaves) if np.size(leaf)]
    phis = [phi, displaced(phi, 0.1)]
    for there in phis:
        if slope is not None and suspects:
            suspects = _flat(slope, there, structure, suspects)
    for there in phis:
        suspects = [i for i in suspects if not _seen(losses, there, leaves, structure, i)]
    name = lambda path: jax.tree_util.keystr(path) or "theta itself"
    return [name(paths[i][0]) for i in suspects]


def displaced(tree: PyTree, size: float) -> PyTree:
    """The tree with each number moved by about `size max(1, |x|)`, no two by the same."""
    return jax.tree.map(lambda leaf: _displaced(leaf, size), tree)


def _displaced(leaf: PyTree, size: float) -> PyTree:
    if not isinstance(leaf, (float, int, np.ndarray, np.generic, jax.Array)):
        return leaf * (1 + size) + size  # arrays of another library, by their own arithmetic
    leaf = np.asarray(leaf)
    way = 0.75 + 0.25 * np.cos(np.arange(np.size(leaf))).reshape(np.shape(leaf))
    return leaf + size * way * np.maximum(1.0, np.abs(leaf))


def _flat(slope: Slope, phi: PyTree, structure: PyTree, suspects: list[int]) -> list[int]:
    """Those of the suspects whose slope is exactly 0."""
    try:
        slopes = slope(phi)
    except Exception:  # beside phi_0 it may not be defined, and then nothing is known
        return []
    if jax.tree.structure(slopes) != structure:
        raise ValueError(
            f"slope: returned {jax.tree.structure(slopes)}, but theta is {structure}; return one "
            "derivative for each leaf of theta."
        )
    leaves = jax.tree.leaves(slopes)
    return [i for i in suspects if np.all(np.asarray(leaves[i]) == 0)]


def _seen(losses: Losses, phi: PyTree, leaves: list[PyTree], structure: PyTree, i: int) -> bool:
    """Whether a loss changes with leaf `i`."""
    at = lambda leaf: losses(
        phi, jax.tree.unflatten(structure, [*leaves[:i], leaf, *leaves[i + 1 :]])
    )
    try:
        here = np.array(leaves[i], np.float64)
        before = at(here.copy())
        if not all(map(math.isfinite, before)):  # infinity hides what changes it
            return True
        # The losses may keep or change what they are handed: each gets an array of its own.
        ways = (np.asarray(_displaced(here, sign * size)) for size in SIZES for sign in (1, -1))
        return any(a != b for way in ways for a, b in zip(before, at(way), strict=True))
    except Exception:  # a loss that is not defined there depends on where it is
        return True
