"""The last two checkpoints of a run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from .._types import PyTree
from ._processes import is_first


class Checkpoints:
    """Orbax checkpoints of any pytree of numbers and keys, each in a folder named by its step.

    Each becomes visible only when it is complete, so that a process killed while it writes one
    leaves the one before. Several processes must call `save` and `load` together; the first one
    writes, and all see the folder.
    """

    def __init__(self, path: Path) -> None:
        # Imported here because it takes longer than all else together.
        from orbax.checkpoint import v1

        self._orbax, self._path = v1, path.absolute()

    def steps(self) -> list[int]:
        """The steps that have one, ascending."""
        return sorted(int(at.name) for at in self._path.glob("*") if at.name.isdigit())

    def drop(self, keep: Callable[[int], bool]) -> None:
        """Delete those of all other steps, and what was not completed."""
        for at in self._path.glob("*"):
            if not (at.name.isdigit() and keep(int(at.name))):
                shutil.rmtree(at)

    def save(self, step: int, tree: PyTree) -> None:
        """Save `tree`, and delete all but the last two."""
        # As a list of NumPy arrays: independent of the device and of how optax nests its states.
        leaves = [_stored(leaf) for leaf in jax.tree.leaves(tree)]
        leaves = [leaf for leaf in leaves if leaf.size]  # Orbax refuses empty arrays
        self._orbax.save_checkpointables(self._path / str(step), {"leaves": leaves})
        if is_first():
            self.drop(self.steps()[-2:].__contains__)

    def load(self, step: int, like: PyTree) -> PyTree:
        """What was saved, with the structure of `like`; its leaves are NumPy arrays or keys.

        The leaves of `like` may be abstract (`jax.eval_shape`).

        Raises:
            ValueError: if leaves, shapes or types are not those of `like`.
        """
        saved = self._orbax.load_checkpointables(self._path / str(step))["leaves"]
        paths, structure = jax.tree_util.tree_flatten_with_path(like)
        stored = [(path, leaf) for path, leaf in paths if _shape(leaf).size]
        if len(saved) != len(stored):
            raise ValueError(
                f"out: the checkpoint holds {len(saved)} arrays, not {len(stored)}{_FIT}"
            )
        values = iter(
            [_restored(p, x, np.asarray(v)) for (p, x), v in zip(stored, saved, strict=True)]
        )
        leaves = [next(values) if _shape(leaf).size else leaf for _, leaf in paths]
        return jax.tree.unflatten(structure, leaves)


_FIT = (
    "; resume a run with the theta, the optimizer and the precision (jax_enable_x64) that it was "
    "started with."
)


def _is_key(leaf: PyTree) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key)


def _stored(leaf: PyTree) -> np.ndarray:
    # A copy: a view would forbid the donation of the leaf's buffer.
    return np.array(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _shape(leaf: PyTree) -> jax.ShapeDtypeStruct:
    """Shape and type of what is stored for a leaf, abstract or not."""
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
    array = _stored(leaf)
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


def _restored(path: PyTree, like: PyTree, value: np.ndarray) -> np.ndarray | jax.Array:
    needed = _shape(like)
    if (needed.shape, needed.dtype) != (value.shape, value.dtype):
        raise ValueError(
            f"out: {jax.tree_util.keystr(path)} is {value.dtype}{list(value.shape)} in the "
            f"checkpoint, not {needed.dtype}{list(needed.shape)}{_FIT}"
        )
    return _key(like, value) if _is_key(like) else value


def _key(like: PyTree, data: np.ndarray) -> jax.Array:
    """The key of these data; only a traced key tells of what kind it is, if `like` is abstract."""
    kinds: list[object] = []
    jax.eval_shape(lambda key: kinds.append(jax.random.key_impl(key)), like)
    return jax.random.wrap_key_data(jnp.asarray(data), impl=kinds[0])
