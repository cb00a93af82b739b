"""Omniglot's official archives into the cache's layout."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from ._archive import zip_members
from ._omniglot import SIDE

_DRAWING = re.compile(r"images_(background|evaluation)/([^/]+)/character(\d\d)/(\d{4})_(\d\d)\.png")
_LARGEST, _TOTAL = 1 << 16, 1 << 28


def omniglot_arrays(source: Path) -> dict[str, dict[str, Any]]:
    """`omniglot.npz` from the folder `source`.

    Args:
        source: holds images_background.zip and images_evaluation.zip, or what they unpack to.

    Raises:
        FileNotFoundError, ValueError: a part is not there, damaged, or holds something else.
    """
    drawings = [
        (int(m[4]), int(m[5]), m[1] == "background", m[2], int(m[3]), _bits(m[0], data))
        for part in ("background", "evaluation")
        for m, data in _members(source, part)
    ]
    drawings.sort(key=lambda drawing: drawing[:2])
    char_id, drawer, background, alphabets, character, bits = zip(*drawings, strict=True)
    # Background alphabets first, each half in order of the names.
    halves = {(not b, alphabet) for b, alphabet in zip(background, alphabets, strict=True)}
    names = [alphabet for _, alphabet in sorted(halves)]
    index = {name: i for i, name in enumerate(names)}
    return {
        "omniglot.npz": {
            "bits": np.stack(bits),
            "alphabet": np.array([index[name] for name in alphabets], np.uint8),
            "alphabet_names": np.array(names),
            "character": np.array(character, np.uint8),
            "char_id": np.array(char_id, np.uint16),
            "drawer": np.array(drawer, np.uint8),
            "background": np.array(background),
        }
    }


def _members(source: Path, part: str) -> Iterator[tuple[re.Match[str], bytes]]:
    folder, archive = source / f"images_{part}", source / f"images_{part}.zip"
    if not folder.is_dir():
        yield from zip_members(archive, _DRAWING, _LARGEST, _TOTAL)
        return
    for path in folder.glob("*/character*/*.png"):
        if match := _DRAWING.fullmatch(path.relative_to(source).as_posix()):
            yield match, path.read_bytes()


def _bits(name: str, data: bytes) -> np.ndarray:
    """A drawing, one bit a pixel, 1 for paper."""
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            if image.size != (SIDE, SIDE):
                raise ValueError(f"{image.size} pixels")
            return np.packbits(np.asarray(image.convert("1")), axis=-1)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise ValueError(
            f"source: {name} is no drawing of {SIDE}x{SIDE} ({error}); download it again."
        ) from error
