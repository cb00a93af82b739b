"""Writing into the cache so that it is left as it was or holds all of a data set; checksums."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

import numpy as np

from ._untrusted import Untrusted

RECORD = "checksums.json"  # of the files that were written here: {file: sha256}
_LARGEST_RECORD = 1 << 16
_BLOCK = 1 << 20


def store(folder: Path, files: dict[str, dict[str, Any]]) -> None:
    """Write each file's arrays, `{"mnist.npz": {"x_train": ...}}`, and record their checksums.

    All are written beside their places, in a folder that no one else can reach into and whose name
    no one can foresee, before the first is moved there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    known = recorded(folder)
    with TemporaryDirectory(prefix=".unfinished-", dir=folder) as private:
        sums = {}
        for file, arrays in files.items():
            with (Path(private) / file).open("xb") as out:
                np.savez_compressed(out, **arrays)
            with (Path(private) / file).open("rb") as written:
                sums[file] = digest(written, "sha256")
        others = {file: checksum for file, checksum in known.items() if file not in sums}
        _write(Path(private) / "others", others)
        _write(Path(private) / "all", known | sums)
        # From here on nothing is written, only moved. A file without a record is judged by its
        # structure: so a crash on the way leaves nothing that looks altered.
        os.replace(Path(private) / "others", folder / RECORD)
        for file in files:
            os.replace(Path(private) / file, folder / file)
        os.replace(Path(private) / "all", folder / RECORD)


def recorded(folder: Path) -> dict[str, str]:
    """The checksums of the files of the cache that were written by `store`."""
    record = Untrusted(RECORD, folder / RECORD, "delete it")
    if not (folder / RECORD).exists():
        return {}
    with record.opened(_LARGEST_RECORD) as file:
        return {str(name): str(checksum) for name, checksum in json.load(file).items()}


def sha256(where: Untrusted, largest: int) -> str:
    """The checksum of a file of at most so many bytes."""
    with where.opened(largest) as file:
        return digest(file, "sha256")


def digest(file: BinaryIO, kind: str) -> str:
    """The checksum of what a file holds, in hexadecimal digits."""
    hasher = hashlib.new(kind, usedforsecurity=False)
    while block := file.read(_BLOCK):
        hasher.update(block)
    return hasher.hexdigest()


def _write(path: Path, sums: dict[str, str]) -> None:
    path.write_text(json.dumps(sums, indent=2) + "\n", encoding="utf-8")
