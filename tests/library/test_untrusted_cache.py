"""Loaders refuse what verify refuses; what is unfinished is private."""

import io
import os
import re
import zipfile

import archives
import numpy as np
import pytest
from bounded import refused

from metacontrast import tasks
from metacontrast.tasks import _cache, _sources
from metacontrast.tasks._untrusted import Untrusted

HERE = Untrusted("source", "here")
ANY_NAME = re.compile(".*", re.DOTALL)


# The cache


def mnist_file(folder, **arrays):
    digits = {"x": np.zeros((2, 28, 28), np.uint8), "y": np.zeros(2, np.uint8)}
    both = {f"{key}_{part}": a for key, a in digits.items() for part in ("train", "test")}
    np.savez(folder / "mnist.npz", **both | arrays)
    return folder


def header(shape, descr="|u1"):
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        out, {"descr": descr, "fortran_order": False, "shape": shape}
    )
    return out.getvalue()


NPY = {
    "1 TB": header((1 << 40,)),
    "a shape below nothing": header((-5,)),
    "a type of no bytes": header((5,), "|V0"),
    "a header of another kind": b"\x93NUMPY\x01\x00\x06\x00(,,,)\n",
    "a long header": b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65_535,
    "nothing": b"",
}


@pytest.mark.parametrize("content", NPY.values(), ids=NPY)
def test_arrays_that_are_not_what_they_say(tmp_path, content):
    mnist_file(tmp_path)
    with np.load(tmp_path / "mnist.npz") as z:
        kept = {key: array for key, array in z.items() if key != "y_test"}
    np.savez(tmp_path / "mnist.npz", **kept)
    with zipfile.ZipFile(tmp_path / "mnist.npz", "a") as archive:
        archive.writestr("y_test.npy", content)
    refused(
        "^mnist: .*(cannot be read|does not hold any y_test)", _cache.load, tmp_path, "mnist.npz"
    )


ARRAYS = {
    "digits above 9": {"y_test": np.array([0, 10], np.uint8)},
    "another number": {"y_test": np.zeros(3, np.uint8)},
    "another type": {"y_test": np.zeros(2)},
    "another shape": {"y_test": np.zeros((), np.uint8)},
    "none": {"x_test": np.zeros((0, 28, 28), np.uint8), "y_test": np.zeros(0, np.uint8)},
    "text": {"y_test": np.array(["0", "1"])},
}


@pytest.mark.parametrize("arrays", ARRAYS.values(), ids=ARRAYS)
def test_loaders_refuse_what_verify_refuses(tmp_path, monkeypatch, arrays):
    monkeypatch.setenv("METACONTRAST_DATA", str(mnist_file(tmp_path, **arrays)))
    refused("^mnist: .*does not hold", _sources.verify, "mnist", tmp_path)
    refused("^mnist: .*does not hold", tasks.mnist, "train")


@pytest.fixture
def images(tmp_path, monkeypatch):
    """A cache with miniImageNet in small."""
    archives.expected(monkeypatch)
    folder = tmp_path / "cache"
    monkeypatch.setenv("METACONTRAST_DATA", str(folder))
    _sources.import_("miniimagenet", archives.miniimagenet(tmp_path / "source"), folder)
    return folder


def both_refuse(match, folder):
    refused(f"^miniimagenet: .*{match}", _sources.verify, "miniimagenet", folder)
    refused(f"^miniimagenet: .*{match}", tasks.miniimagenet, "train")


def changed(folder, **arrays):
    (folder / "checksums.json").unlink()
    with np.load(folder / "miniimagenet_train.npz") as z:
        np.savez(folder / "miniimagenet_train.npz", **dict(z) | arrays)


def test_a_loader_sees_an_altered_file(images):
    with (images / "miniimagenet_train.npz").open("ab") as file:
        file.write(b"x")
    both_refuse("was altered since it was imported; delete it", images)


def test_a_loader_sees_a_class_of_another_part(images):
    changed(images, classes=np.array(["n01", "n03"]))
    both_refuse("has n03 in two parts", images)


def test_a_loader_sees_images_of_another_size(images):
    other = np.frombuffer(archives.png(np.zeros((8, 8, 3), np.uint8)), np.uint8)
    changed(images, encoded=np.tile(other, 6), offset=len(other) * np.arange(7))
    both_refuse("image 0 of .*8x8 pixels", images)


def test_a_record_of_checksums_that_is_none(images):
    for text in ("[]", "[" * 10_000, "{"):
        (images / "checksums.json").write_text(text)
        refused("^checksums.json: .*delete it", _cache.load, images, "miniimagenet_train.npz")


def test_what_is_unfinished_is_private_and_follows_no_links(tmp_path, images, monkeypatch):
    victim, seen = tmp_path / "victim", []
    victim.write_text("{}")
    for file in images.iterdir():
        file.unlink()
        file.symlink_to(victim)
    save = np.savez_compressed

    def watched(file, **arrays):
        seen.append(os.stat(os.path.dirname(file.name)).st_mode & 0o777)
        save(file, **arrays)

    monkeypatch.setattr(np, "savez_compressed", watched)
    _sources.import_("miniimagenet", tmp_path / "source", images)
    assert seen == [0o700] * 3 and victim.read_text() == "{}"
    assert not any(path.is_symlink() or path.is_dir() for path in images.iterdir())
