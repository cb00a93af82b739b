"""The last two checkpoints of a run."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._types import PyTree
from ._archive import UNFINISHED, read_arrays, write_arrays

_KEEP, _ASIDE, _BESIDE = 2, ".damaged", "beside/"


class Name(NamedTuple):
    """Of a checkpoint: its step, and whether it is of the midst of a block (a run was stopped)."""

    step: int
    is_part: bool = False

    @property
    def file(self) -> str:
        """`30.npz`, `33.part.npz`."""
        return f"{self.step}{'.part' if self.is_part else ''}.npz"


class Saved(NamedTuple):
    """A checkpoint that was read: a tree, arrays beside it, and what is known about them."""

    tree: PyTree
    beside: dict[str, np.ndarray]
    about: dict[str, Any]


class Checkpoints:
    """Checkpoints of any pytree of numbers and keys, each in a file named by its step.

    Each becomes visible only when it is complete, so that a process killed while it writes one
    leaves the one before. Files of other names are left as they are.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def names(self) -> list[Name]:
        """What there is, ascending; of one step the whole one last."""
        parsed = [re.fullmatch(r"(\d+)(\.part)?\.npz", at.name) for at in self._path.glob("*.npz")]
        found = [Name(int(match[1]), match[2] is not None) for match in parsed if match]
        return sorted(found, key=lambda name: (name.step, not name.is_part))

    def steps(self) -> list[int]:
        """The steps of the whole ones, ascending."""
        return [name.step for name in self.names() if not name.is_part]

    def drop(self, keep: Callable[[Name], bool]) -> None:
        """Delete all others, and what was not completed."""
        for at in self._path.glob(f"*.npz{UNFINISHED}"):
            if re.fullmatch(r"\d+(\.part)?", at.name.removesuffix(f".npz{UNFINISHED}")):
                at.unlink()
        for name in self.names():
            if not keep(name):
                (self._path / name.file).unlink()

    def put_aside(self, name: Name) -> Path:
        """Rename one that cannot be used, so that it is looked at no more; its new path."""
        at = self._path / name.file
        n, aside = 1, at.with_name(at.name + _ASIDE)
        while aside.exists():
            n, aside = n + 1, at.with_name(f"{at.name}{_ASIDE}-{n + 1}")
        os.replace(at, aside)
        return aside

    def aside(self) -> list[str]:
        """The names of those that were put aside."""
        return sorted(at.name for at in self._path.glob(f"*.npz{_ASIDE}*"))

    def save(self, name: Name, saved: Saved) -> None:
        """Save it, and delete all but the last two."""
        leaves, _ = jax.tree_util.tree_flatten_with_path(saved.tree)
        arrays = {f"{i:04}/{_words(path)}": _stored(leaf) for i, (path, leaf) in enumerate(leaves)}
        arrays |= {_BESIDE + key: np.asarray(x) for key, x in saved.beside.items()}
        write_arrays(self._path / name.file, arrays, saved.about)
        self.drop(self.names()[-_KEEP:].__contains__)

    def read(self, name: Name) -> dict[str, Any]:
        """What is known about one, all of which is checked.

        Raises:
            DamagedError: it is not as it was written.
            OSError: it cannot be read.
        """
        return read_arrays(self._path / name.file)[1]

    def load(self, name: Name, like: PyTree) -> Saved:
        """What was saved, with the structure of `like`; its leaves are NumPy arrays or keys.

        The leaves of `like` may be abstract (`jax.eval_shape`). They are matched by their order, so
        that it does not matter how optax nests its states.

        Raises:
            ValueError: if leaves, shapes or types are not those of `like`; see `read`.
        """
        arrays, about = read_arrays(self._path / name.file)
        beside = {key: arrays.pop(key) for key in list(arrays) if key.startswith(_BESIDE)}
        paths, structure = jax.tree_util.tree_flatten_with_path(like)
        if len(arrays) != len(paths):
            raise ValueError(
                f"out: the checkpoint holds {len(arrays)} arrays, not {len(paths)}{_FIT}"
            )
        pairs = zip(paths, arrays.values(), strict=True)
        leaves = [_restored(path, leaf, value) for (path, leaf), value in pairs]
        beside = {key.removeprefix(_BESIDE): x for key, x in beside.items()}
        return Saved(jax.tree.unflatten(structure, leaves), beside, about)


_FIT = (
    "; resume a run with the theta, the optimizer and the precision (jax_enable_x64) that it was "
    "started with."
)


def _words(path: PyTree) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


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
