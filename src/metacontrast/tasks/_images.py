"""Images by class, and how they are decoded."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError


class Images(NamedTuple):
    """Images by class: `pixels` (classes, per_class, H, W, C), uint8, and the classes' `names`.

    The arrays that loaders return are shared by all who load them, and cannot be written to.
    """

    pixels: np.ndarray
    names: tuple[str, ...]


def decoded(name: str, encoded: np.ndarray, offset: np.ndarray, size: int) -> np.ndarray:
    """The RGB pixels (n, size, size, 3) of n image files that lie one after the other.

    Raises:
        ValueError: the offsets do not fit the files, or one of them is no image.
    """
    pixels = np.empty((len(offset) - 1, size, size, 3), np.uint8)
    for i, image in enumerate(opened(name, encoded, offset)):
        pixels[i] = resized(image, size)
    return frozen(pixels)


def opened(name: str, encoded: np.ndarray, offset: np.ndarray) -> Iterator[Image.Image]:
    """The same images one by one, as they are."""
    bounds = offset.astype(np.int64)
    if bounds[0] != 0 or bounds[-1] != len(encoded) or np.any(np.diff(bounds) <= 0):
        raise ValueError(f"{name}: the offsets in its file do not fit; fetch or import it again.")
    for i in range(len(bounds) - 1):
        file = encoded[bounds[i] : bounds[i + 1]].tobytes()
        try:
            with Image.open(io.BytesIO(file)) as image:
                rgb = image.convert("RGB")
        except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
            raise ValueError(
                f"{name}: image {i} cannot be decoded ({error}); fetch or import it again."
            ) from error
        yield rgb


def resized(image: Image.Image, size: int) -> np.ndarray:
    """The pixels of a square of `size`, filtered by Lanczos' kernel where that is a change."""
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(image)


def frozen(pixels: np.ndarray) -> np.ndarray:
    """The same array, which can no longer be written to."""
    pixels.flags.writeable = False
    return pixels
