"""miniImageNet's images and split into the cache's layout."""

from __future__ import annotations

import csv
import io
import re
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ._images import image, rgb
from ._structure import MINI_SIDE
from ._untrusted import Untrusted

QUALITY = 95
_LARGEST_SPLIT, _MOST_ROWS = 1 << 23, 38_400  # bytes; the training images
_LARGEST_FILE, _LARGEST_IMAGE = 1 << 25, 1 << 26  # bytes, pixels
_TOTAL, _TOTAL_PIXELS = 1 << 30, 1 << 35  # of a part: bytes that are kept, pixels to decode
_NAME, _LABEL = re.compile(r"[^/\\\0]{1,255}"), re.compile(r"[\w-]{1,64}", re.ASCII)


def miniimagenet_arrays(source: Path) -> dict[str, dict[str, Any]]:
    """`miniimagenet_{train,val,test}.npz` from the folder `source`.

    Args:
        source: holds the split of Ravi and Larochelle, train.csv, val.csv and test.csv with the
            columns filename and label, and the images, in a folder images or beside the split.
            An image that is not 84x84 is made so by Lanczos' filter and stored as JPEG.

    Raises:
        FileNotFoundError, ValueError: a file is not there, or not what it should be.
    """
    images = source / "images" if (source / "images").is_dir() else source
    return {
        f"miniimagenet_{part}.npz": _part(source / f"{part}.csv", images)
        for part in ("train", "val", "test")
    }


def _part(path: Path, images: Path) -> dict[str, Any]:
    split = Untrusted("source", path, "get the published split", "put the published split there")
    rows = _rows(split)
    classes = sorted({label for _, label in rows})
    index = {name: i for i, name in enumerate(classes)}
    rows.sort(key=lambda row: (row[1], row[0]))
    files, left, pixels = [], _TOTAL, _TOTAL_PIXELS
    for filename, _ in rows:
        file, decoded = _jpeg(images / filename)
        left, pixels = left - len(file), pixels - decoded
        if left < 0 or pixels < 0:
            raise split.refused("names images too large together")
        files.append(file)
    labels = [index[label] for _, label in rows]
    return packed(files, labels, classes, [filename for filename, _ in rows])


def packed(
    files: list[bytes], label: list[int], classes: list[str], filename: list[str]
) -> dict[str, Any]:
    """Image files and what they show, as the cache keeps them."""
    if not all(name.isprintable() and len(name) <= 255 for name in classes + filename):
        raise ValueError("names are too long or cannot be printed")  # all take the longest's bytes
    return {
        "encoded": np.frombuffer(b"".join(files), np.uint8),
        "offset": np.cumsum([0, *map(len, files)], dtype=np.int64),
        "label": np.array(label, np.int64),
        "classes": np.array(classes),
        "filename": np.array(filename),
    }


def _rows(split: Untrusted) -> list[tuple[str, str]]:
    """The names of images and their classes; Windows' mark of an encoding may come before them."""
    with split.opened(_LARGEST_SPLIT) as file:
        table = csv.reader(io.StringIO(file.read().decode("utf-8-sig"), newline=""))
        header = next(table, [])
        rows = [dict(zip(header, row, strict=False)) for row in islice(table, _MOST_ROWS + 1)]
    if len(rows) > _MOST_ROWS:
        raise split.refused("has more rows than the data set")
    plain: dict[str, str] = {}
    for row in filter(None, rows):
        filename, label = row.get("filename", ""), row.get("label", "")
        plain_name = _NAME.fullmatch(filename) and filename.isprintable()
        good = plain_name and _LABEL.fullmatch(label)
        if not good or filename in plain or filename in (".", ".."):
            raise split.refused(
                f"has a row {filename!r}, {label!r}; its columns must be filename, once each, a "
                "plain name in the folder of images, and label"
            )
        plain[filename] = label
    if not plain:
        raise split.refused("has no rows below filename,label")
    return list(plain.items())


def _jpeg(path: Path) -> tuple[bytes, int]:
    """The file, if it is 84x84, or a JPEG of its image made so; and how many pixels it had."""
    where = Untrusted("source", path, "get it again", "the split names it, so add it")
    with where.opened(_LARGEST_FILE) as file:
        data = file.read()
    found = image(where, data, ("JPEG", "PNG"), _LARGEST_IMAGE)
    plain = rgb(where, found)
    if plain.size == (MINI_SIDE, MINI_SIDE):
        return data, MINI_SIDE**2
    out = io.BytesIO()
    small = plain.resize((MINI_SIDE, MINI_SIDE), Image.Resampling.LANCZOS)
    small.save(out, "JPEG", quality=QUALITY)
    return out.getvalue(), plain.width * plain.height
