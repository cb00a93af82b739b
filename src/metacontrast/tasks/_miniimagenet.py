"""miniImageNet: 100 classes of ImageNet, at 84x84."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from .._must import Count
from ._cache import cache_folder, cached, choose, load
from ._images import Images, decoded, frozen
from ._structure import MINI_SIDE

FILES = {"train": "train", "valid": "val", "test": "test"}


def miniimagenet(part: str, size: Count = 84) -> Images:
    """Photographs of 64, 16 and 20 classes, RGB.

    Args:
        part: "train", "valid" or "test"; no class is in two of them.
        size: of the square images; made so by Lanczos' filter if they are not.

    Returns:
        `Images`, a name is the class's WordNet number. As many a class as the smallest class of the
        cache's file has (600 if it is complete). In memory after the first call.

    Raises:
        FileNotFoundError: the data are not in the cache; the message says how to get them.
        ValueError: a bad argument, or a damaged file.

    Reference: Vinyals et al., 2016; the classes and split: Ravi and Larochelle, 2017.
    """
    choose("part", part, tuple(FILES))
    return _miniimagenet(cache_folder(), part, size)


@cache
def _miniimagenet(folder: Path, part: str, size: int) -> Images:
    file = f"miniimagenet_{FILES[part]}.npz"
    z = load(folder, file)
    per_class = np.bincount(z["label"], minlength=len(z["classes"])).min()
    rows = [np.flatnonzero(z["label"] == k)[:per_class] for k in range(len(z["classes"]))]
    pixels = decoded(cached(folder, file), z["encoded"], z["offset"], MINI_SIDE, size)
    return Images(frozen(pixels[np.stack(rows)]), tuple(str(name) for name in z["classes"]))
