"""Images by class, how their files are decoded, and which cannot be without a loss."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

from ._untrusted import Untrusted

_SCANS = 100  # of a JPEG; a progressive one has ten, and each takes the time of the whole image


class Images(NamedTuple):
    """Images by class: `pixels` (classes, per_class, H, W, C), uint8, and the classes' `names`.

    The arrays that loaders return are shared by all who load them, and cannot be written to.
    """

    pixels: np.ndarray
    names: tuple[str, ...]


def image(
    where: Untrusted, data: bytes, formats: tuple[str, ...], most: int, size: int | None = None
) -> Image.Image:
    """The image in a file's bytes, undamaged as far as its format can tell.

    Args:
        where: what to call it in messages.
        data: the file.
        formats: of Pillow's, the only ones that are tried.
        most: pixels that it may have; looked at before it is decoded.
        size: if given, of the square that it must be.

    Raises:
        ValueError: it is no such image.
    """
    with where.parsing(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of damaged metadata: ImageNet has some
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        if data.count(b"\xff\xda") > _SCANS and data.startswith(b"\xff\xd8"):
            raise ValueError("too many scans")
        with Image.open(io.BytesIO(data), formats=formats) as opened:
            if opened.width * opened.height > most:
                raise ValueError(f"{opened.width}x{opened.height} pixels are too many")
            if size is not None and opened.size != (size, size):
                raise ValueError(f"{opened.width}x{opened.height} pixels, not {size}x{size}")
            opened.load()
        if opened.format == "PNG":  # whose checksums are compared here, and not before
            with Image.open(io.BytesIO(data), formats=formats) as checked:
                checked.verify()
    return opened


def rgb(where: Untrusted, image: Image.Image) -> Image.Image:
    """The same image in RGB, if nothing of it is lost: 16 bits of grey are scaled to 8.

    Raises:
        ValueError: it is transparent in parts, or its colours are not defined by its numbers alone.
    """
    if image.mode.startswith("I;16") and not image.has_transparency_data:
        grey = (np.asarray(image).astype(np.uint32) + 128) // 257  # rounded; 65,535 is 255
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
        raise where.refused(f"is of mode {image.mode}, which has no one conversion; save it as RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            raise where.refused("is transparent in parts; save it on a background, as RGB")
    return image.convert("RGB")


def decoded(
    where: Untrusted, encoded: np.ndarray, offset: np.ndarray, side: int, size: int
) -> np.ndarray:
    """The RGB pixels (n, size, size, 3) of n image files of side x side that lie in a row.

    Raises:
        ValueError: the offsets do not fit the files, or one of them is no image of this side.
    """
    pixels = np.empty((len(offset) - 1, size, size, 3), np.uint8)
    for i, image in enumerate(images(where, encoded, offset, side)):
        pixels[i] = resized(image, size)
    return frozen(pixels)


def images(
    where: Untrusted, encoded: np.ndarray, offset: np.ndarray, side: int
) -> Iterator[Image.Image]:
    """The same images one by one."""
    bounds = offset.astype(np.int64)
    if bounds[0] != 0 or bounds[-1] != len(encoded) or np.any(np.diff(bounds) <= 0):
        raise where.refused("has offsets that do not fit")
    for i in range(len(bounds) - 1):
        this = Untrusted(where.argument, f"image {i} of {where.what}", where.remedy)
        data = encoded[bounds[i] : bounds[i + 1]].tobytes()
        yield rgb(this, image(this, data, ("PNG", "JPEG", "WEBP"), side**2, side))


def resized(image: Image.Image, size: int) -> np.ndarray:
    """The pixels of a square of `size`, filtered by Lanczos' kernel where that is a change."""
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(image)


def frozen(pixels: np.ndarray) -> np.ndarray:
    """The same array, which can no longer be written to."""
    pixels.flags.writeable = False
    return pixels
