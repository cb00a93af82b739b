"""Arrays in one file that vouches for itself: an .npz whose comment is the checksum of the rest."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np

UNFINISHED = ".tmp"
_ABOUT, _TYPES = "about.json", "types"
_COMMENT = "sha256:{}"
_LENGTH = len(_COMMENT.format("0" * 64))


class DamagedError(ValueError):
    """A file that is not as it was written."""


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], about: dict[str, Any]) -> None:
    """Replace the file by these arrays and what is to be known `about` them, as JSON.

    The file is what `numpy.savez` writes: a zip archive of .npy files, with `about.json` beside
    them. Its comment, which is at the very end, is the SHA-256 of all before the comment. Types
    that NumPy does not know (bfloat16) are stored as whole numbers of the same bits. It is the old
    file or the new, also after a crash, and has the same bytes whenever it is written.
    """
    known = {name: x if x.dtype.kind in "biufc" else _bits(x) for name, x in arrays.items()}
    types = {name: x.dtype.name for name, x in arrays.items() if known[name] is not x}
    text = json.dumps({**about, _TYPES: types}, allow_nan=False).encode()
    unfinished = path.with_name(path.name + UNFINISHED)
    unfinished.unlink(missing_ok=True)  # never through a link
    with unfinished.open("x+b") as file:
        with zipfile.ZipFile(file, "w") as archive:
            archive.comment = _COMMENT.format("0" * 64).encode()
            archive.writestr(zipfile.ZipInfo(_ABOUT), text)
            for name, x in known.items():
                with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, x, allow_pickle=False)
        digest = _digest(file)
        file.seek(-_LENGTH, os.SEEK_END)
        file.write(_COMMENT.format(digest).encode())
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)
    sync_folder(path.parent)


def read_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of a file, in the order in which they were written, and what it says about them.

    Raises:
        DamagedError: it is not as it was written, or was not written by `write_arrays`.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        digest = _digest(file)
        if file.read() != _COMMENT.format(digest).encode():
            raise DamagedError(f"{path.name}: its checksum is not that of its content")
        file.seek(0)
        try:
            with np.load(file, allow_pickle=False) as archive:
                about: dict[str, Any] = json.loads(archive[_ABOUT])
                arrays = {name: archive[name] for name in archive.files if name != _ABOUT}
        except (ValueError, KeyError, zipfile.BadZipFile) as error:  # sealed by someone else
            raise DamagedError(f"{path.name}: {error}") from error
    types = about.pop(_TYPES)
    return {n: x.view(jnp.dtype(types[n])) if n in types else x for n, x in arrays.items()}, about


def sync_folder(path: Path) -> None:
    """See to it that the names in a folder outlast a power cut, where the system can."""
    with suppress(OSError):
        opened = os.open(path, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def _bits(x: np.ndarray) -> np.ndarray:
    return x.view(f"uint{8 * x.dtype.itemsize}")


def _digest(file: BinaryIO) -> str:
    """Of all before the comment, where the file is then."""
    left = file.seek(0, os.SEEK_END) - _LENGTH
    file.seek(0)
    digest = hashlib.sha256()
    while left > 0 and (part := file.read(min(left, 1 << 20))):
        digest.update(part)
        left -= len(part)
    return digest.hexdigest()
