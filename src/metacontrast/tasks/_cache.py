"""The folder that downloaded and imported data are kept in."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from .._user_cache import user_cache
from ._archive import zip_members
from ._store import recorded, sha256
from ._structure import CLASSES, FIELDS, distinct, fitting, name_of
from ._untrusted import Untrusted

VARIABLE = "METACONTRAST_DATA"
_LARGEST = 1 << 30  # bytes of a file, and of its arrays
_HEADER = 1 << 14  # NumPy reads no header of more than 10,000


def cache_folder() -> Path:
    """`$METACONTRAST_DATA`; else the user's cache."""
    given = os.environ.get(VARIABLE)
    return Path(given).expanduser() if given else user_cache()


def cached(folder: Path, file: str) -> Untrusted:
    """A file of the cache, for example "mnist.npz": anyone may have put it there."""
    name, path = name_of(file), folder / file
    return Untrusted(
        name,
        path,
        "delete it, and fetch or import it again",
        f"run `metacontrast data fetch {name}` or `metacontrast data import {name} --source PATH`, "
        f"or point {VARIABLE} at a folder that has it",
    )


def load(folder: Path, file: str) -> dict[str, np.ndarray]:
    """The arrays of one file of the cache, which fit together; nothing in it is ever unpickled.

    All is checked that `metacontrast data verify` checks, but for the decoding of images.

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: it is damaged, altered since it was imported, or lacks an array; or a class of
            miniImageNet is in another part too.
    """
    where = cached(folder, file)
    known = recorded(folder)
    if file in known and known[file] != sha256(where, _LARGEST):
        raise where.refused("was altered since it was imported")
    arrays = arrays_of(where, FIELDS[file])
    fitting(where, file, arrays)
    if name_of(file) == "miniimagenet":
        parts = [part for part in CLASSES if name_of(part) == "miniimagenet"]
        others = [part for part in parts if part != file and (folder / part).exists()]
        read = lambda part: arrays_of(cached(folder, part), ("classes",))["classes"]
        distinct(where, {file: arrays["classes"], **{part: read(part) for part in others}})
    return arrays


def arrays_of(where: Untrusted, keys: Iterable[str]) -> dict[str, np.ndarray]:
    """The arrays `keys` of an npz file, as they are."""
    wanted = re.compile(f"({'|'.join(map(re.escape, keys))})\\.npy")
    members = zip_members(where, wanted, _LARGEST, _LARGEST)
    arrays = {match[1]: _array(where, data) for match, data in members}
    if missing := [key for key in keys if key not in arrays]:
        raise where.refused(f"lacks {', '.join(missing)}")
    return arrays


def _array(where: Untrusted, data: bytearray) -> np.ndarray:
    """The array in an npy file, over the bytes that there are: its header may say any shape."""
    with where.parsing():
        file = io.BytesIO(data[:_HEADER])
        version = npy.read_magic(file)
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
        shape, by_columns, dtype = read(file)
        if dtype.hasobject:
            raise ValueError("it has objects, and pickles are not read")
        values = np.frombuffer(data, dtype, offset=file.tell())
        return values.reshape(shape, order="F" if by_columns else "C")


def choose(argument: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise unless `value` is one of the `choices`."""
    if value not in choices:
        raise ValueError(f"{argument}: must be one of {', '.join(choices)}, not {value!r}.")
