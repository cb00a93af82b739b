"""miniImageNet's images and split into the cache's layout."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

SIDE, QUALITY = 84, 95
_LARGEST_FILE, _LARGEST_IMAGE = 1 << 25, 1 << 26  # bytes, pixels


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


def _part(split: Path, images: Path) -> dict[str, Any]:
    rows = _rows(split)
    classes = sorted({label for _, label in rows})
    index = {name: i for i, name in enumerate(classes)}
    rows.sort(key=lambda row: (row[1], row[0]))
    return packed(
        [_jpeg(images / filename) for filename, _ in rows],
        [index[label] for _, label in rows],
        classes,
        [filename for filename, _ in rows],
    )


def packed(
    files: list[bytes], label: list[int], classes: list[str], filename: list[str]
) -> dict[str, Any]:
    """Image files and what they show, as the cache keeps them."""
    return {
        "encoded": np.frombuffer(b"".join(files), np.uint8),
        "offset": np.cumsum([0, *map(len, files)], dtype=np.int64),
        "label": np.array(label, np.int64),
        "classes": np.array(classes),
        "filename": np.array(filename),
    }


def _rows(split: Path) -> list[tuple[str, str]]:
    if not split.is_file():
        raise FileNotFoundError(f"source: {split} is not there; put the published split there.")
    with split.open(newline="", encoding="utf-8") as file:
        rows = [(row.get("filename"), row.get("label")) for row in csv.DictReader(file)]
    plain: list[tuple[str, str]] = []
    for filename, label in rows:
        if not filename or not label or Path(filename).name != filename or "\\" in filename:
            raise ValueError(
                f"source: {split} has a row {filename!r}, {label!r}; its columns must be filename, "
                "a plain name in the folder of images, and label."
            )
        plain.append((filename, label))
    return plain


def _jpeg(path: Path) -> bytes:
    """The file, if it is 84x84, or a JPEG of its image made so."""
    if not path.is_file():
        raise FileNotFoundError(f"source: {path} is not there, but the split names it; add it.")
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise ValueError("too large a file")
        data = path.read_bytes()
        with Image.open(io.BytesIO(data), formats=["JPEG", "PNG"]) as image:
            if image.width * image.height > _LARGEST_IMAGE:
                raise ValueError("too large an image")
            rgb = image.convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise ValueError(f"source: {path} is no image ({error}); get it again.") from error
    if rgb.size == (SIDE, SIDE):
        return data
    out = io.BytesIO()
    rgb.resize((SIDE, SIDE), Image.Resampling.LANCZOS).save(out, "JPEG", quality=QUALITY)
    return out.getvalue()
