"""The official archives of CIFAR-10 and MNIST into the cache's layout."""

from __future__ import annotations

import io
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ._archive import gunzipped, tar_members
from ._import_images import packed
from ._unpickle import Bytes, unpickled

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
    path = source / CIFAR10 if source.is_dir() else source
    batches = {
        name.rpartition("/")[2]: unpickled(name, data)
        for name, data in tar_members(path, _MEMBER, _CIFAR10_TOTAL)
    }
    if missing := {*_TRAIN, "test_batch", "batches.meta"} - batches.keys():
        raise ValueError(f"source: {path} lacks {', '.join(sorted(missing))}; download it again.")
    try:
        classes = [name.decode() for name in batches["batches.meta"][b"label_names"]]
        return {
            "cifar10_train.npz": _batches([batches[name] for name in _TRAIN], classes),
            "cifar10_test.npz": _batches([batches["test_batch"]], classes),
        }
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"source: {path} is not laid out as the official one ({error!r}); download it again."
        ) from error


def _batches(batches: list[Any], classes: list[str]) -> dict[str, Any]:
    files: list[bytes] = []
    for batch in batches:
        rows: Bytes = batch[b"data"]
        # Rows hold all red, then all green, then all blue pixels.
        pixels = rows.array().reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        if not len(pixels) == len(batch[b"labels"]) == len(batch[b"filenames"]):
            raise ValueError("images, labels and filenames differ in number")
        files += [_png(image) for image in pixels]
    labels = [int(label) for batch in batches for label in batch[b"labels"]]
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
    return {"mnist.npz": {key: _idx(source / file) for key, file in _MNIST.items()}}


def _idx(path: Path) -> np.ndarray:
    """An array of bytes in the IDX format: 0, 0, type, number of axes; their lengths; the data."""
    data = gunzipped(path, _MNIST_TOTAL)
    axes = data[3] if data[:3] == b"\0\0\x08" and len(data) > 3 else 0
    if axes not in (1, 3) or len(data) < 4 + 4 * axes:
        raise ValueError(f"source: {path} holds no array of bytes; download it again.")
    shape = struct.unpack(f">{axes}I", data[4 : 4 + 4 * axes])
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * axes)
    if values.size != np.prod(shape, dtype=np.float64):
        raise ValueError(
            f"source: {path} has {values.size} values, not those of {shape}; download it again."
        )
    return values.reshape(shape)
