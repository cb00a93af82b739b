"""Data sets of labelled images: MNIST and CIFAR-10."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from .._problem import Data
from ._cache import cache_folder, cached, choose, load
from ._images import decoded, frozen
from ._structure import SIDES

PARTS = ("train", "test")


def mnist(part: str) -> Data:
    """Handwritten digits: `x` (n, 28, 28) uint8, ink 255; `y` (n,) int32, 0 to 9; official order.

    Args:
        part: "train" (60,000) or "test" (10,000).

    Raises:
        FileNotFoundError: the data are not in the cache; the message says how to get them.
        ValueError: a bad argument, or a damaged file.

    Reference: LeCun, Bottou, Bengio, Haffner, 1998.
    """
    choose("part", part, PARTS)
    return _mnist(cache_folder(), part)


@cache
def _mnist(folder: Path, part: str) -> Data:
    z = load(folder, "mnist.npz")
    return Data(frozen(z[f"x_{part}"]), frozen(z[f"y_{part}"].astype(np.int32)))


def cifar10(part: str) -> Data:
    """Photographs of ten classes: `x` (n, 32, 32, 3) uint8, RGB; `y` (n,) int32.

    The classes, 0 to 9: airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck.

    Args:
        part: "train" (50,000, or what the cache's file has of them) or "test" (10,000).

    Raises:
        FileNotFoundError: the data are not in the cache; the message says how to get them.
        ValueError: a bad argument, or a damaged file.

    Reference: Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
    """
    choose("part", part, PARTS)
    return _cifar10(cache_folder(), part)


@cache
def _cifar10(folder: Path, part: str) -> Data:
    file = f"cifar10_{part}.npz"
    z = load(folder, file)
    side = SIDES["cifar10"]
    x = decoded(cached(folder, file), z["encoded"], z["offset"], side, side)
    return Data(x, frozen(z["label"].astype(np.int32)))
