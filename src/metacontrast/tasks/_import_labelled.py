"""The official archives of CIFAR-10 and MNIST into the cache's layout."""

from __future__ import annotations

import io
import math
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ._archive import gunzipped, tar_members
from ._import_images import packed
from ._unpickle import Bytes, unpickled
from ._untrusted import Untrusted

CIFAR10 = "cifar-10-python.tar.gz"
_FOLDER = "cifar-10-batches-py"
_TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))
_MEMBER = re.compile(rf"{_FOLDER}/(data_batch_[1-5]|test_batch|batches\.meta)")
_CIFAR10_TOTAL, _MNIST_TOTAL = 1 << 28, 1 << 26
_MNIST = {
    "x_train": "train-images-idx3-ubyte.gz",
    "y_train": "train-labels-idx1-ubyte.gz",
    "x_test": "t10k-images-idx3-ubyte.gz",
    "y_test": "t10k-labels-idx1-ubyte.gz",
}


def cifar10_arrays(source: Path) -> dict[str, dict[str, Any]]:
    """`cifar10_{train,test}.npz` from cifar-10-python.tar.gz, its images as PNG.

    Args:
        source: the archive, or the folder that it is in.

    Raises:
        FileNotFoundError, ValueError: it is not there, damaged, or holds something else.
    """
    archive = Untrusted("source", source / CIFAR10 if source.is_dir() else source)
    batches = {
        name.rpartition("/")[2]: unpickled(Untrusted("source", f"{name} in {archive.what}"), data)
        for name, data in tar_members(archive, _MEMBER, _CIFAR10_TOTAL)
    }
    if missing := {*_TRAIN, "test_batch", "batches.meta"} - batches.keys():
        raise archive.refused(f"lacks {', '.join(sorted(missing))}")
    with archive.parsing():
        classes = [name.decode() for name in batches["batches.meta"][b"label_names"]]
        return {
            "cifar10_train.npz": _batches([batches[name] for name in _TRAIN], classes),
            "cifar10_test.npz": _batches([batches["test_batch"]], classes),
        }


def _batches(batches: list[Any], classes: list[str]) -> dict[str, Any]:
    files: list[bytes] = []
    for batch in batches:
        rows: Bytes = batch[b"data"]
        # Rows hold all red, then all green, then all blue pixels.
        pixels = rows.array().reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        if not len(pixels) == len(batch[b"labels"]) == len(batch[b"filenames"]):
            raise ValueError("images, labels and filenames differ in number")
        files += [_png(image) for image in pixels]
    labels = [label for batch in batches for label in batch[b"labels"]]
    if not all(type(label) is int for label in labels):
        raise ValueError("a label is no number")
    names = [name.decode() for batch in batches for name in batch[b"filenames"]]
    return packed(files, labels, classes, names)


def _png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", compress_level=3)
    return out.getvalue()


def mnist_arrays(source: Path) -> dict[str, dict[str, Any]]:
    """`mnist.npz` from the folder `source` with the four official gzipped files.

    Raises:
        FileNotFoundError, ValueError: one is not there, damaged, or holds something else.
    """
    files = {key: Untrusted("source", source / file) for key, file in _MNIST.items()}
    return {"mnist.npz": {key: _idx(file) for key, file in files.items()}}


def _idx(file: Untrusted) -> np.ndarray:
    """An array of bytes in the IDX format: 0, 0, type, number of axes; their lengths; the data."""
    data = gunzipped(file, _MNIST_TOTAL)
    axes = data[3] if data[:3] == b"\0\0\x08" and len(data) > 3 else 0
    if axes not in (1, 3) or len(data) < 4 + 4 * axes:
        raise file.refused("holds no array of bytes")
    shape = struct.unpack(f">{axes}I", data[4 : 4 + 4 * axes])
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * axes)
    if values.size != math.prod(shape):
        raise file.refused(f"has {values.size} values, not those of {shape}")
    return values.reshape(shape)
