"""Folders of images: what is no file, no table, no image, or would lose something."""

import io
import os
import re
import struct
import zlib

import archives
import numpy as np
import pytest
from bounded import refused
from PIL import Image

from metacontrast.tasks import _cache, _images, _import_images, _import_omniglot
from metacontrast.tasks._import_images import miniimagenet_arrays
from metacontrast.tasks._import_labelled import cifar10_arrays
from metacontrast.tasks._import_omniglot import _bits, omniglot_arrays
from metacontrast.tasks._untrusted import Untrusted

HERE = Untrusted("source", "here")
ANY_NAME = re.compile(".*", re.DOTALL)


# Files that are none


def pipe(path, _):
    path.unlink()
    os.mkfifo(path)


def device(path, _):
    path.unlink()
    path.symlink_to("/dev/zero")


def huge(path, folder):
    (folder / "huge").touch()
    os.truncate(folder / "huge", 6 << 30)  # of holes
    path.unlink()
    path.symlink_to(folder / "huge")


KINDS = {pipe: "no regular file", device: "no regular file", huge: "6,442,450,944 bytes, more than"}


@pytest.mark.parametrize(("become", "match"), KINDS.items())
def test_pipes_devices_and_huge_files_in_folders(tmp_path, become, match):
    source = tmp_path / "source"
    archives.miniimagenet(source)
    become(source / "images" / "n0100001.jpg", tmp_path)
    refused(f"n0100001.jpg .*{match}", miniimagenet_arrays, source)
    become(source / "train.csv", tmp_path)
    refused(f"train.csv .*{match}", miniimagenet_arrays, source)
    drawing = source / "images_background" / "Greek" / "character01" / "0001_01.png"
    drawing.parent.mkdir(parents=True)
    drawing.touch()
    become(drawing, tmp_path)
    refused(f"0001_01.png .*{match}", omniglot_arrays, source)
    (source / "cifar-10-python.tar.gz").touch()
    become(source / "cifar-10-python.tar.gz", tmp_path)
    refused(f"cifar-10-python.tar.gz .*{match}", cifar10_arrays, source)
    cache = tmp_path / "cache"
    cache.mkdir()
    for file in ("mnist.npz", "checksums.json"):
        (cache / file).touch()
        become(cache / file, tmp_path)
        refused(f"{file} .*{match}", _cache.load, cache, "mnist.npz")


SPLITS = {
    "no rows": (b"filename,label\n", "has no rows"),
    "nothing": (b"", "has no rows"),
    "no text": (b"\xff\xfef\0i\0", "cannot be read"),
    "a field of 200,000 characters": (b'filename,label\n"' + b"x" * 200_000, "cannot be read"),
    "four million columns": (b"," * (1 << 22) + b"\nx" * (1 << 21), "more rows than the data set"),
    "a row twice": (b"filename,label\na.jpg,n01\na.jpg,n01\n", "has a row 'a.jpg'"),
    "a name of another folder": (b"filename,label\n..,n01\n", "has a row '..'"),
    "a long label": (b"filename,label\na.jpg," + b"n" * 65, "has a row"),
    "too many rows": (
        b"filename,label\n" + b"".join(b"%d.jpg,n01\n" % i for i in range(38_401)),
        "more rows than the data set",
    ),
}


@pytest.mark.parametrize(("text", "match"), SPLITS.values(), ids=SPLITS)
def test_splits(tmp_path, text, match):
    (tmp_path / "train.csv").write_bytes(text)
    refused(f"train.csv .*{match}", miniimagenet_arrays, tmp_path)


@pytest.mark.parametrize("limit", ["_TOTAL", "_TOTAL_PIXELS"])
def test_images_that_are_too_large_together(tmp_path, monkeypatch, limit):
    archives.miniimagenet(tmp_path / "source")
    monkeypatch.setattr(_import_images, limit, 10_000)
    refused("train.csv names images too large together", miniimagenet_arrays, tmp_path / "source")


@pytest.mark.parametrize(("limit", "things"), [("_MOST", "drawings"), ("_ALPHABETS", "alphabets")])
def test_more_than_the_data_set_has(tmp_path, monkeypatch, limit, things):
    archives.omniglot(tmp_path)
    monkeypatch.setattr(_import_omniglot, limit, 1)
    refused(f"has more {things} than the data set", omniglot_arrays, tmp_path)


# Images


def file_of(image, kind="PNG", **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


GREY = np.arange(84 * 84, dtype=np.uint16).reshape(84, 84)
RGB = np.random.default_rng(0).integers(0, 256, (84, 84, 3), np.uint8)
FAITHFUL = {
    "1": (Image.fromarray(GREY % 2 == 0), 255 * (GREY % 2 == 0)),
    "L": (Image.fromarray((GREY % 256).astype(np.uint8)), GREY % 256),
    "P": (Image.fromarray(RGB[:1, :84]).quantize(84), RGB[:1, :84]),
    "I;16": (Image.fromarray(GREY * 9), np.rint(GREY * 9 / 257)),
    "RGB": (Image.fromarray(RGB), RGB),
    "RGBA": (Image.fromarray(RGB).convert("RGBA"), RGB),
    "LA": (Image.fromarray((GREY % 256).astype(np.uint8)).convert("LA"), GREY % 256),
}


def read(data, most=1 << 20):
    image = _images.image(HERE, data, ("PNG", "JPEG"), most)
    return np.asarray(_images.rgb(HERE, image))


@pytest.mark.parametrize(("image", "expected"), FAITHFUL.values(), ids=FAITHFUL)
def test_modes_that_lose_nothing(image, expected):
    expected = expected if expected.ndim == 3 else np.repeat(expected[..., None], 3, 2)
    np.testing.assert_array_equal(read(file_of(image)), expected)


def chunk(kind, content):
    both = kind + content
    return struct.pack(">L", len(content)) + both + struct.pack(">L", zlib.crc32(both))


def test_sixteen_bits_of_colour_are_scaled():
    rows = np.random.default_rng(0).integers(0, 1 << 16, (8, 8, 3), np.uint16)
    header = chunk(b"IHDR", struct.pack(">LL5B", 8, 8, 16, 2, 0, 0, 0))
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rows)
    rest = chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    # Pillow takes the high byte, which is less than 1 off.
    np.testing.assert_allclose(read(b"\x89PNG\r\n\x1a\n" + header + rest), rows / 257, atol=1)


UNFAITHFUL = {
    "RGBA": file_of(Image.fromarray(np.dstack([RGB, RGB[..., :1]]))),
    "P": file_of(Image.fromarray(RGB).quantize(9), transparency=0),
    "RGB": file_of(Image.fromarray(RGB), transparency=tuple(map(int, RGB[0, 0]))),
    "I;16": file_of(Image.fromarray(GREY), transparency=7),
    "CMYK": file_of(Image.fromarray(RGB).convert("CMYK"), "JPEG"),
}


@pytest.mark.parametrize("data", UNFAITHFUL.values(), ids=UNFAITHFUL)
def test_modes_that_would_lose_something(data):
    refused("here is (transparent in parts|of mode .*); save it", read, data)


def test_grey_that_is_no_drawing():
    grey = file_of(Image.fromarray(np.full((105, 105), 127, np.uint8)))
    refused("no drawing in black and white", _bits, HERE, grey)
    white = file_of(Image.fromarray(np.full((105, 105), 255, np.uint8)))
    assert np.unpackbits(_bits(HERE, white), axis=-1, count=105).all()


def test_images_that_unfold_to_far_more():
    for side in (10_000, 15_000, 60_000):  # Pillow is silent, warns, and raises
        header = chunk(b"IHDR", struct.pack(">LL5B", side, side, 8, 2, 0, 0, 0))
        rest = chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
        refused("source: here cannot be read", read, b"\x89PNG\r\n\x1a\n" + header + rest)
    jpeg = file_of(Image.fromarray(RGB), "JPEG", progressive=True)
    first = jpeg.rindex(b"\xff\xda")
    refused("too many scans", read, jpeg[:-2] + jpeg[first:-2] * 100 + jpeg[-2:])
    assert read(jpeg).shape == (84, 84, 3)
    refused("cannot be read", read, b"%!PS-Adobe-3.0 EPSF-3.0\n")


def test_every_byte_of_a_png_counts():
    good = file_of(Image.fromarray(RGB[:8, :8]))
    for i in range(len(good) - 12):  # up to the mark of its end, which holds nothing
        bad = bytearray(good)
        bad[i] ^= 4
        refused("cannot be read", read, bytes(bad))
