"""The folder that downloaded and imported data are kept in."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from .._user_cache import user_cache

VARIABLE = "METACONTRAST_DATA"


def cache_folder() -> Path:
    """`$METACONTRAST_DATA`; else the user's cache."""
    given = os.environ.get(VARIABLE)
    return Path(given).expanduser() if given else user_cache()


def load(folder: Path, file: str, name: str, keys: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The arrays `keys` of one file of the cache; nothing in it is ever unpickled.

    Args:
        folder: the cache.
        file: for example "mnist.npz".
        name: of the data set, for the messages.
        keys: the arrays that are wanted.

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: it is damaged, or lacks an array.
    """
    path = folder / file
    if not path.is_file():
        raise FileNotFoundError(
            f"{name}: {path} is not there; run `metacontrast data fetch {name}` or `metacontrast "
            f"data import {name} --source PATH`, or point {VARIABLE} at a folder that has it."
        )
    try:
        # Opened here because NumPy leaves a damaged file open.
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in keys}
    except (KeyError, ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{name}: {path} is damaged or of another layout ({error}); delete it, and fetch or "
            "import it again."
        ) from error


def choose(argument: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise unless `value` is one of the `choices`."""
    if value not in choices:
        raise ValueError(f"{argument}: must be one of {', '.join(choices)}, not {value!r}.")
