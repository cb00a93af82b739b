"""Whether the arrays of a file of the cache fit together, and how many images they hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ._images import opened
from ._omniglot import BACKGROUND, DRAWINGS, KEYS, SIDE

# Of the complete data sets: images, and classes where a file holds some of them.
COUNTS = {
    "omniglot.npz": 32_460,
    "miniimagenet_train.npz": 38_400,
    "miniimagenet_val.npz": 9_600,
    "miniimagenet_test.npz": 12_000,
    "cifar10_train.npz": 50_000,
    "cifar10_test.npz": 10_000,
    "mnist.npz": 70_000,
}
CLASSES = {
    "miniimagenet_train.npz": 64,
    "miniimagenet_val.npz": 16,
    "miniimagenet_test.npz": 20,
    "cifar10_train.npz": 10,
    "cifar10_test.npz": 10,
}
FIELDS = {
    "omniglot.npz": (*KEYS, "background"),
    "mnist.npz": ("x_train", "y_train", "x_test", "y_test"),
} | dict.fromkeys(CLASSES, ("encoded", "offset", "label", "classes", "filename"))


def images_in(file: str, arrays: Mapping[str, Any]) -> int:
    """How many images the arrays of `file` hold, after a look at each.

    Raises:
        ValueError: they do not fit together, or an image cannot be decoded.
    """
    look = {"omniglot.npz": _omniglot, "mnist.npz": _mnist}.get(file, _encoded)
    return look(file, arrays)


def _fits(file: str, what: str, good: Any) -> None:
    if not good:
        raise ValueError(f"{file}: {what} do not fit; fetch or import it again.")


def _omniglot(file: str, z: Mapping[str, Any]) -> int:
    n = len(z["bits"])
    _fits(file, "its drawings", n > 0 and z["bits"].shape[1:] == (SIDE, -(-SIDE // 8)))
    columns = ("alphabet", "character", "char_id", "drawer", "background")
    _fits(file, "its columns", all(z[key].shape == (n,) for key in columns))
    _fits(file, "its alphabets", z["alphabet"].max() < len(z["alphabet_names"]))
    pairs = {*zip(z["char_id"].tolist(), z["drawer"].tolist(), strict=True)}
    ids = range(1, 1 + n // DRAWINGS)
    every = {(i, drawer) for i in ids for drawer in range(1, 1 + DRAWINGS)}
    _fits(file, "its 20 drawings of each character", len(pairs) == n and pairs == every)
    rows = zip(*(z[key].tolist() for key in ("alphabet", "character", "char_id")), strict=True)
    names = {row[:2]: row[2] for row in rows}
    _fits(file, "its names of characters", sorted(names.values()) == [*ids])
    _fits(file, "its halves", (z["background"] == (z["char_id"] <= BACKGROUND)).all())
    return n


def _mnist(file: str, z: Mapping[str, Any]) -> int:
    for part in ("train", "test"):
        x, y = z[f"x_{part}"], z[f"y_{part}"]
        _fits(file, f"its {part} images and labels", x.shape == (*y.shape, 28, 28) and y.max() <= 9)
        _fits(file, "its types", x.dtype == y.dtype == np.uint8)
    return len(z["x_train"]) + len(z["x_test"])


def _encoded(file: str, z: Mapping[str, Any]) -> int:
    n, classes = len(z["label"]), CLASSES[file]
    present = np.array_equal(np.unique(z["label"]), np.arange(classes))
    _fits(file, f"its {classes} classes", present and len(set(z["classes"].tolist())) == classes)
    _fits(file, "its names of images", z["filename"].shape == (n,))
    decoded = sum(1 for _ in opened(file, z["encoded"], z["offset"]))
    _fits(file, "its images and labels", decoded == n)
    return decoded
