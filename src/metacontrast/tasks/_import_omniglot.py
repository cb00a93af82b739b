"""Omniglot's official archives into the cache's layout."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ._archive import zip_members
from ._images import image, rgb
from ._structure import SIDE
from ._untrusted import Untrusted

_DRAWING = re.compile(
    r"images_(background|evaluation)/([\w()-]{1,64})/character(\d\d)/(\d{4})_(\d\d)\.png", re.ASCII
)
_LARGEST, _TOTAL, _MOST = 1 << 16, 1 << 28, 40_000  # bytes of one and of all, drawings of a part
_ALPHABETS = 50


def omniglot_arrays(source: Path) -> dict[str, dict[str, Any]]:
    """`omniglot.npz` from the folder `source`.

    Args:
        source: holds images_background.zip and images_evaluation.zip, or what they unpack to.

    Raises:
        FileNotFoundError, ValueError: a part is not there, damaged, or holds something else.
    """
    drawings = [
        (int(m[4]), int(m[5]), m[1] == "background", m[2], int(m[3]), bits)
        for part in ("background", "evaluation")
        for m, bits in _drawings(source, part)
    ]
    drawings.sort(key=lambda drawing: drawing[:2])
    char_id, drawer, background, alphabets, character, bits = zip(*drawings, strict=True)
    # Background alphabets first, each half in order of the names.
    halves = {(not b, alphabet) for b, alphabet in zip(background, alphabets, strict=True)}
    names = [alphabet for _, alphabet in sorted(halves)]
    index = {name: i for i, name in enumerate(names)}
    if len(names) > _ALPHABETS:
        raise Untrusted("source", source).refused("has more alphabets than the data set")
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


def _drawings(source: Path, part: str) -> Iterator[tuple[re.Match[str], np.ndarray]]:
    """The drawings of a part: of the archive, whose checksum is known, or of a folder."""
    archive, folder = Untrusted("source", source / f"images_{part}.zip"), source / f"images_{part}"
    unpacked = not Path(archive.what).is_file() and folder.is_dir()
    members = _unpacked(folder) if unpacked else zip_members(archive, _DRAWING, _LARGEST, _TOTAL)
    where = Untrusted("source", folder) if unpacked else archive
    n = 0
    for match, data in members:
        yield match, _bits(Untrusted("source", f"{match[0]} in {source}"), bytes(data))
        n += 1
        if n > _MOST:
            raise where.refused("has more drawings than the data set")
    if n == 0:
        raise where.refused(f"has no images_{part}/ALPHABET/character01/0001_01.png and the like")


def _unpacked(folder: Path) -> Iterator[tuple[re.Match[str], bytes | bytearray]]:
    for path in folder.glob("*/character*/*.png"):
        if match := _DRAWING.fullmatch(path.relative_to(folder.parent).as_posix()):
            with Untrusted("source", path).opened(_LARGEST) as file:
                data = file.read()
            yield match, data


def _bits(where: Untrusted, data: bytes) -> np.ndarray:
    """A drawing, one bit a pixel, 1 for paper."""
    grey = np.asarray(rgb(where, image(where, data, ("PNG",), SIDE**2, SIDE)).convert("L"))
    if ((grey > 0) & (grey < 255)).any():
        raise where.refused("is no drawing in black and white")
    return np.packbits(grey == 255, axis=-1)
