"""A trained theta in a file of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._synapse import Synapse
from .._types import Arrays, PyTree
from ._archive import DamagedError, read_arrays, write_arrays

_STRUCTURE = "structure"
_KNOWN: dict[str, type] = {"Synapse": Synapse}  # of other packages none, by a name in a file


def save_theta(path: str | Path, theta: Arrays) -> Path:
    """Write theta and its structure into one file.

    The file is an uncompressed .npz: `numpy.load(path)` gives each array by the path of its leaf,
    such as `omega/0/w` (`theta`, if it is a single array), without this package or JAX. Beside
    them, `about.json` is the structure, and the comment of the archive the SHA-256 of all before
    it. Types that NumPy does not have (bfloat16) are stored as whole numbers of the same bits.

    Args:
        path: of the file, which is replaced; mostly `something.npz`.
        theta: a pytree of arrays.

    Returns:
        The path.

    Raises:
        ValueError: theta has a leaf that is no array, or two leaves of one name.

    Example:
        >>> import tempfile, jax.numpy as jnp, metacontrast as mc
        >>> theta = mc.Synapse(omega={"w": jnp.arange(2.0)}, log_lam=jnp.array(0.5))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = save_theta(f"{folder}/theta.npz", theta)
        ...     plain, again = np.load(path), load_theta(path)
        ...     plain["omega/w"].tolist(), again.omega["w"].tolist(), float(again.log_lam)
        ([0.0, 1.0], [0.0, 1.0], 0.5)
    """
    arrays: dict[str, np.ndarray] = {}
    structure = _outline(theta, (), arrays)
    write_arrays(Path(path), arrays, {_STRUCTURE: structure})
    return Path(path)


def load_theta(path: str | Path, like: Arrays | None = None) -> PyTree:
    """The theta that `save_theta` wrote, or a run as `theta.npz` and `best.npz` into its folder.

    Args:
        path: of the file.
        like: a theta of the same structure, shapes and types, whose containers are used. Default:
            dicts, lists, tuples and `Synapse` come back as they were; any other container as a
            dict of its fields, since no file is to say what code is called.

    Raises:
        ValueError: the file is damaged, or not such a file; or it does not fit `like`.
        FileNotFoundError: there is none.
    """
    try:
        arrays, about = read_arrays(Path(path))
        structure = about[_STRUCTURE]
    except (DamagedError, KeyError) as error:
        raise ValueError(
            f"path: {path} is damaged, or was not written by save_theta ({error}); take a copy, or "
            "resume the run it is of, which writes it again."
        ) from error
    if like is None:
        return _rebuilt(structure, arrays)
    needed: dict[str, np.ndarray] = {}
    _outline(like, (), needed)
    for name in sorted(needed.keys() | arrays.keys()):
        there, here = _kind(arrays.get(name)), _kind(needed.get(name))
        if there != here:
            raise ValueError(f"like: {name} is {here}, and {there} in {path}; give one that fits.")
    return jax.tree.unflatten(jax.tree.structure(like), [jnp.asarray(arrays[x]) for x in needed])


def _outline(tree: PyTree, at: tuple[str, ...], arrays: dict[str, np.ndarray]) -> Any:
    """The structure of a tree as JSON, and its leaves, by name and in order, in `arrays`."""
    if tree is None:
        return None
    pairs, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: x is not tree)
    if [path for path, _ in pairs] == [()]:
        name = "/".join(at) or "theta"
        if name in arrays:
            raise ValueError(f"theta: two leaves are named {name!r}; rename a key.")
        arrays[name] = _checked(name, tree)
        return name
    inner = [(_key(path), _outline(part, (*at, str(_key(path))), arrays)) for path, part in pairs]
    return {"type": type(tree).__name__, "parts": inner}


def _rebuilt(structure: Any, arrays: dict[str, np.ndarray]) -> PyTree:
    if structure is None:
        return None
    if isinstance(structure, str):
        return jnp.asarray(arrays[structure])
    parts = {key: _rebuilt(part, arrays) for key, part in structure["parts"]}
    kind = structure["type"]
    if kind in ("list", "tuple"):
        return {"list": list, "tuple": tuple}[kind](parts.values())
    return _KNOWN[kind](**parts) if kind in _KNOWN else parts


def _key(path: Any) -> Any:
    (entry,) = path
    for name in ("key", "name", "idx"):
        if hasattr(entry, name):
            return getattr(entry, name)
    return str(entry)


def _checked(name: str, leaf: PyTree) -> np.ndarray:
    array = np.asarray(leaf)
    if array.dtype.hasobject or array.dtype.kind in "SUmM":
        raise ValueError(f"theta: {name} is no array of numbers, but {leaf!r}.")
    return array


def _kind(array: np.ndarray | None) -> str:
    return "absent" if array is None else f"{array.dtype}{list(array.shape)}"
