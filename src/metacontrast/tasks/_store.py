"""Writing into the cache so that it is left as it was or holds all of a data set; checksums."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

RECORD = "checksums.json"  # of the files that were written here: {file: sha256}
_BLOCK = 1 << 20


def store(folder: Path, files: dict[str, dict[str, Any]]) -> None:
    """Write each file's arrays, `{"mnist.npz": {"x_train": ...}}`, and record their checksums.

    All are written beside their places before the first is moved there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as cleanup:
        unfinished = {}
        for file, arrays in files.items():
            unfinished[file] = folder / f".{file}.{os.getpid()}.tmp"
            cleanup.callback(unfinished[file].unlink, missing_ok=True)
            with unfinished[file].open("wb") as out:
                np.savez_compressed(out, **arrays)
        sums = {file: digest(path) for file, path in unfinished.items()}
        # A file without a record is judged by its structure: so a crash between these two lines
        # leaves nothing that looks altered.
        _write_record(folder, {k: v for k, v in recorded(folder).items() if k not in sums})
        for file, path in unfinished.items():
            os.replace(path, folder / file)
        _write_record(folder, recorded(folder) | sums)


def recorded(folder: Path) -> dict[str, str]:
    """The checksums of the files of the cache that were written by `store`."""
    path = folder / RECORD
    if not path.is_file():
        return {}
    try:
        sums = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{RECORD}: {path} is damaged ({error}); delete it.") from error
    return {str(file): str(sha256) for file, sha256 in sums.items()}


def digest(path: Path, kind: str = "sha256") -> str:
    """The checksum of a file, in hexadecimal digits."""
    hasher = hashlib.new(kind, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            hasher.update(block)
    return hasher.hexdigest()


def _write_record(folder: Path, sums: dict[str, str]) -> None:
    unfinished = folder / f".{RECORD}.{os.getpid()}.tmp"
    unfinished.write_text(json.dumps(sums, indent=2) + "\n", encoding="utf-8")
    os.replace(unfinished, folder / RECORD)
