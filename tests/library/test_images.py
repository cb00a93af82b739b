"""The real data, where they are; and what loaders say where they are not."""

import os
from pathlib import Path

import numpy as np
import pytest

from metacontrast.tasks import _cache, _omniglot, _structure, cifar10, miniimagenet, mnist, omniglot

CACHE = os.environ.get("METACONTRAST_DATA", "")


def needs(file):
    there = bool(CACHE) and (Path(CACHE) / file).is_file()
    return pytest.mark.skipif(not there, reason=f"METACONTRAST_DATA has no {file}")


@needs("omniglot.npz")
@pytest.mark.parametrize(
    ("split", "sizes"), [("vinyals", (1028, 172, 423)), ("background", (855, 109, 659))]
)
def test_omniglot_counts_and_no_character_in_two_parts(split, sizes):
    parts = [omniglot(part, split, size=14) for part in ("train", "valid", "test")]
    assert [x.pixels.shape for x in parts] == [(n, 20, 14, 14, 1) for n in sizes]
    assert len({name for x in parts for name in x.names}) == sum(sizes) == 1623
    assert all(len(x.names) == n for x, n in zip(parts, sizes, strict=True))


@needs("omniglot.npz")
def test_omniglot_is_ink_on_paper():
    pixels = omniglot("valid").pixels
    assert pixels.dtype == np.uint8
    assert pixels.max() == 255
    assert 0.05 < np.mean(pixels > 127) < 0.15
    assert np.median(pixels) == 0
    with pytest.raises(ValueError, match="read-only"):
        pixels[0] = 0


@needs("splits/omniglot_vinyals/test.txt")
@needs("omniglot.npz")
@pytest.mark.parametrize(("part", "file"), [("train", "train"), ("valid", "val"), ("test", "test")])
def test_the_vinyals_split_is_the_published_one(part, file):
    lines = (Path(CACHE) / "splits" / "omniglot_vinyals" / f"{file}.txt").read_text().split()
    assert set(omniglot(part, size=14).names) == {line.rpartition("/")[0] for line in lines}
    assert len(lines) == 4 * len(omniglot(part, size=14).names)


def test_gurmukhi_is_cut():
    assert _omniglot.vinyals("Gurmukhi", 41, 1100) == "train"
    assert _omniglot.vinyals("Gurmukhi", 42, 1101) == "test"


@needs("miniimagenet_test.npz")
def test_miniimagenet_counts_and_no_class_in_two_parts():
    parts = [miniimagenet(part) for part in ("valid", "test")]
    assert [x.pixels.shape[0] for x in parts] == [16, 20]
    assert all(x.pixels.shape[2:] == (84, 84, 3) and x.pixels.dtype == np.uint8 for x in parts)
    there = lambda part: _cache.cached(Path(CACHE), f"miniimagenet_{part}.npz")
    load = lambda part: _cache.arrays_of(there(part), ("classes",))
    names = [set(load(part)["classes"].tolist()) for part in ("train", "val", "test")]
    assert [len(x) for x in names] == [64, 16, 20]
    assert len(set.union(*names)) == 100
    assert names[1] == set(parts[0].names)


@needs("cifar10_test.npz")
def test_cifar10_counts():
    x, y = cifar10("test")
    assert (x.shape, x.dtype, y.dtype) == ((10_000, 32, 32, 3), np.uint8, np.int32)
    np.testing.assert_array_equal(np.bincount(y), [1000] * 10)
    blue = x[..., 2].mean((1, 2)) - x[..., 0].mean((1, 2))
    assert blue[y == 0].mean() > 5 > blue[y == 4].mean()  # the sky is blue; deer are not


@needs("mnist.npz")
def test_mnist_counts():
    for part, n, ones in (("train", 60_000, 6742), ("test", 10_000, 1135)):
        x, y = mnist(part)
        assert (x.shape, x.dtype, y.dtype) == ((n, 28, 28), np.uint8, np.int32)
        assert np.sum(y == 1) == ones
    assert mnist("train").y[:5].tolist() == [5, 0, 4, 1, 9]


@needs("mnist.npz")
@needs("omniglot.npz")
@pytest.mark.parametrize("name", ["omniglot", "mnist"])
def test_their_structure(name):
    file = f"{name}.npz"
    where = _cache.cached(Path(CACHE), file)
    arrays = _cache.load(Path(CACHE), file)
    assert _structure.images_in(where, file, arrays) == _structure.COUNTS[file]


LOADERS = [
    ("omniglot", lambda: omniglot("test")),
    ("miniimagenet", lambda: miniimagenet("test")),
    ("cifar10", lambda: cifar10("test")),
    ("mnist", lambda: mnist("test")),
]


@pytest.mark.parametrize(("name", "load"), LOADERS)
def test_data_that_are_not_there(name, load, tmp_path, monkeypatch):
    monkeypatch.setenv("METACONTRAST_DATA", str(tmp_path))
    with pytest.raises(
        FileNotFoundError, match=rf"^{name}: .*data fetch {name}.*METACONTRAST_DATA"
    ):
        load()


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04"])
@pytest.mark.parametrize(("name", "load"), LOADERS)
def test_data_that_are_damaged(name, load, content, tmp_path, monkeypatch):
    monkeypatch.setenv("METACONTRAST_DATA", str(tmp_path))
    file = f"{name}_test.npz" if name in ("miniimagenet", "cifar10") else f"{name}.npz"
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{name}: .* cannot be read .*; delete it"):
        load()


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    monkeypatch.setenv("METACONTRAST_DATA", str(tmp_path))
    objects = np.array([print], object)
    np.savez(tmp_path / "mnist.npz", x_test=objects, y_test=objects)
    with pytest.raises(ValueError, match="objects, and pickles are not read"):
        mnist("test")


def test_offsets_that_do_not_fit(tmp_path, monkeypatch):
    monkeypatch.setenv("METACONTRAST_DATA", str(tmp_path))
    encoded, offset, label = np.zeros(9, np.uint8), np.array([0, 4, 8]), np.zeros(2, int)
    np.savez(tmp_path / "cifar10_test.npz", encoded=encoded, offset=offset, label=label)
    with pytest.raises(ValueError, match="offsets"):
        cifar10("test")


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: omniglot("val"), "part"),
        (lambda: omniglot("test", "mine"), "split"),
        (lambda: omniglot("test", size=0), "size"),
        (lambda: miniimagenet("val"), "part"),
        (lambda: miniimagenet("test", size=-1), "size"),
        (lambda: cifar10("valid"), "part"),
        (lambda: mnist("valid"), "part"),
    ],
)
def test_bad_arguments_are_named(call, argument):
    with pytest.raises(ValueError, match=f"^{argument}: "):
        call()


def test_where_the_cache_is(tmp_path, monkeypatch):
    monkeypatch.setenv("METACONTRAST_DATA", str(tmp_path / "a"))
    assert _cache.cache_folder() == tmp_path / "a"
    monkeypatch.delenv("METACONTRAST_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert _cache.cache_folder() == tmp_path / "b" / "metacontrast"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "c"))
    assert _cache.cache_folder() == tmp_path / "c" / ".cache" / "metacontrast"
