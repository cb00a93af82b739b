"""Whether the arrays of a file of the cache fit together, and how many images they hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from ._images import images
from ._untrusted import Untrusted

SIDE, DRAWINGS, BACKGROUND = 105, 20, 964  # Omniglot's
MINI_SIDE = 84
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
SIDES = {"miniimagenet": MINI_SIDE, "cifar10": 32}
Kinds: TypeAlias = dict[str, tuple[str, int]]
# Each array's kinds of type, as NumPy abbreviates them, and its number of axes.
_NUMBERS, _TEXT = ("iu", 1), ("U", 1)
_ENCODED: Kinds = {
    "encoded": ("u", 1),
    **dict.fromkeys(("offset", "label"), _NUMBERS),
    **dict.fromkeys(("classes", "filename"), _TEXT),
}
FIELDS: dict[str, Kinds] = {
    "omniglot.npz": {
        "bits": ("u", 3),
        "alphabet_names": _TEXT,
        **dict.fromkeys(("alphabet", "character", "char_id", "drawer"), _NUMBERS),
        "background": ("b", 1),
    },
    "mnist.npz": {"x_train": ("u", 3), "y_train": ("u", 1), "x_test": ("u", 3), "y_test": ("u", 1)},
    **dict.fromkeys(CLASSES, _ENCODED),
}


def name_of(file: str) -> str:
    """The data set that a file of the cache belongs to."""
    return file.removesuffix(".npz").partition("_")[0]


def images_in(where: Untrusted, file: str, arrays: Mapping[str, Any]) -> int:
    """How many images the arrays of `file` hold, after a look at each.

    Raises:
        ValueError: they do not fit together, or an image cannot be decoded.
    """
    n = fitting(where, file, arrays)
    if file in CLASSES:
        for _ in images(where, arrays["encoded"], arrays["offset"], SIDES[name_of(file)]):
            pass
    return n


def fitting(where: Untrusted, file: str, arrays: Mapping[str, Any]) -> int:
    """The same without a look at the images of files that hold them encoded."""
    with where.parsing():
        for key, (kinds, axes) in FIELDS[file].items():
            array = arrays[key]
            _fits(where, f"{key} of its type", array.dtype.kind in kinds and array.ndim == axes)
            _fits(where, f"any {key}", len(array) > 0)
        look = {"omniglot.npz": _omniglot, "mnist.npz": _mnist}.get(file)
        return look(where, arrays) if look else _encoded(where, file, arrays)


def _fits(where: Untrusted, what: str, good: Any) -> None:
    if not good:
        raise where.refused(f"does not hold {what}")


def distinct(where: Untrusted, classes: Mapping[str, np.ndarray]) -> None:
    """Raise if a class that should be unseen is in two parts of miniImageNet, `{file: classes}`."""
    seen: set[str] = set()
    for part in (set(names.tolist()) for names in classes.values()):
        if shared := sorted(part & seen):
            raise where.refused(f"has {', '.join(shared)} in two parts of the split")
        seen |= part


def _omniglot(where: Untrusted, z: Mapping[str, Any]) -> int:
    n = len(z["bits"])
    packed = z["bits"].dtype == np.uint8 and z["bits"].shape[1:] == (SIDE, -(-SIDE // 8))
    _fits(where, f"drawings of {SIDE}x{SIDE}", packed)
    columns = ("alphabet", "character", "char_id", "drawer", "background")
    _fits(where, "a row of each column for a drawing", all(z[key].shape == (n,) for key in columns))
    in_range = z["alphabet"].min() >= 0 and z["alphabet"].max() < len(z["alphabet_names"])
    _fits(where, "an alphabet for each drawing", in_range)
    pairs = {*zip(z["char_id"].tolist(), z["drawer"].tolist(), strict=True)}
    ids = range(1, 1 + n // DRAWINGS)
    every = {(i, drawer) for i in ids for drawer in range(1, 1 + DRAWINGS)}
    _fits(where, f"{DRAWINGS} drawings of each character", len(pairs) == n and pairs == every)
    rows = zip(*(z[key].tolist() for key in ("alphabet", "character", "char_id")), strict=True)
    names = {row[:2]: row[2] for row in rows}
    _fits(where, "one name for each character", sorted(names.values()) == [*ids])
    _fits(
        where,
        "background characters first",
        (z["background"] == (z["char_id"] <= BACKGROUND)).all(),
    )
    return n


def _mnist(where: Untrusted, z: Mapping[str, Any]) -> int:
    for part in ("train", "test"):
        x, y = z[f"x_{part}"], z[f"y_{part}"]
        _fits(where, f"{part} images of 28x28 and their digits", x.shape == (*y.shape, 28, 28))
        _fits(where, "digits up to 9, in bytes", x.dtype == y.dtype == np.uint8 and y.max() <= 9)
    return len(z["x_train"]) + len(z["x_test"])


def _encoded(where: Untrusted, file: str, z: Mapping[str, Any]) -> int:
    n, classes = len(z["label"]), CLASSES[file]
    present = np.array_equal(np.unique(z["label"]), np.arange(classes))
    _fits(where, f"images of each of {classes} classes", present)
    named = len(z["classes"]) == len(set(z["classes"].tolist())) == classes
    _fits(where, f"{classes} names of classes", named)
    _fits(where, "a name for each image", z["filename"].shape == (n,))
    _fits(where, "an offset for each image", z["offset"].shape == (n + 1,))
    _fits(where, "images in bytes", z["encoded"].dtype == np.uint8)
    return n
