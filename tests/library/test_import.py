"""Official archives, in miniature, come into the cache; hostile and damaged ones do not."""

import json
import os
import pickle
import shutil
import zipfile

import archives
import numpy as np
import pytest
from command import command
from PIL import Image

from metacontrast import tasks
from metacontrast.tasks import _import_labelled, _import_omniglot, _omniglot, _sources, _structure

BUILDERS = {
    "omniglot": archives.omniglot,
    "mnist": archives.mnist,
    "cifar10": archives.cifar10,
    "miniimagenet": archives.miniimagenet,
}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache for miniatures."""
    archives.expected(monkeypatch)
    for name, published in _sources.SOURCES.items():
        monkeypatch.setitem(_sources.SOURCES, name, published._replace(downloads={}))
    monkeypatch.setattr(_structure, "BACKGROUND", 3)
    monkeypatch.setattr(_omniglot, "BACKGROUND", 3)
    monkeypatch.setenv("METACONTRAST_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


def files(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*")} if folder.exists() else {}


# What comes in


def test_omniglot(cache, source):
    _sources.import_("omniglot", archives.omniglot(source), cache)
    train = tasks.omniglot("train", size=105)
    assert train.names == ("Greek/character01", "Greek/character02", "Arcadian/character01")
    for k, drawings in enumerate(train.pixels):
        expected = [255 * (1 - archives.drawing(k + 1, drawer)) for drawer in range(1, 21)]
        np.testing.assert_array_equal(drawings[..., 0], expected)
    assert tasks.omniglot("test", size=105).names == ("Oriya/character01",)
    assert tasks.omniglot("test", "background", size=105).names == ("Oriya/character01",)


def test_omniglot_that_is_unpacked_already(cache, source):
    archives.omniglot(source)
    for part in archives.ALPHABETS:
        zipfile.ZipFile(source / f"images_{part}.zip").extractall(source)
        (source / f"images_{part}.zip").unlink()
    _sources.import_("omniglot", source, cache)
    assert tasks.omniglot("train", size=105).pixels.shape == (3, 20, 105, 105, 1)


def test_mnist(cache, source):
    arrays = archives.mnist(source)
    _sources.import_("mnist", source, cache)
    for part, official in (("train", "train"), ("test", "t10k")):
        x, y = tasks.mnist(part)
        np.testing.assert_array_equal(x, arrays[f"x_{official}"])
        np.testing.assert_array_equal(y, arrays[f"y_{official}"])
        assert y.dtype == np.int32


@pytest.mark.parametrize("named", ["the folder", "the archive"])
def test_cifar10(cache, source, named):
    pixels = archives.cifar10(source)
    path = source if named == "the folder" else source / "cifar-10-python.tar.gz"
    _sources.import_("cifar10", path, cache)
    train = np.concatenate([pixels[f"data_batch_{i}"] for i in range(1, 6)])
    np.testing.assert_array_equal(tasks.cifar10("train").x, train)
    np.testing.assert_array_equal(tasks.cifar10("test").x, pixels["test_batch"])
    np.testing.assert_array_equal(tasks.cifar10("train").y, np.tile(np.arange(10), 5))


def test_cifar10_as_newer_pickles_write_it(cache, source):
    x = np.arange(3072, dtype=np.uint8).reshape(1, 3072)
    batch = {b"data": np.repeat(x, 10, 0), b"labels": list(range(10)), b"filenames": [b"?.png"]}
    batch[b"filenames"] = [f"{i}.png".encode() for i in range(10)]
    archives.cifar10(source, change={"test_batch": pickle.dumps(batch, protocol=4)})
    _sources.import_("cifar10", source, cache)
    expected = x.reshape(3, 32, 32).transpose(1, 2, 0)
    np.testing.assert_array_equal(tasks.cifar10("test").x[3], expected)


def test_miniimagenet(cache, source):
    _sources.import_("miniimagenet", archives.miniimagenet(source), cache)
    images = tasks.miniimagenet("train")
    assert images.names == ("n01", "n02")
    for k, label in enumerate(images.names):
        for i in range(3):  # files of the right size are kept as they are
            with Image.open(source / "images" / f"{label}0000{i}.jpg") as image:
                np.testing.assert_array_equal(images.pixels[k, i], np.asarray(image))
    assert tasks.miniimagenet("valid", size=20).pixels.shape == (1, 3, 20, 20, 3)


def test_miniimagenet_of_another_size_is_resized_once(cache, source):
    _sources.import_("miniimagenet", archives.miniimagenet(source, size=168), cache)
    assert tasks.miniimagenet("test").pixels.shape == (1, 3, 84, 84, 3)


# Checksums


@pytest.mark.parametrize("name", BUILDERS)
def test_verify_knows_the_checksum_and_sees_an_altered_file(
    cache, source, name, monkeypatch, capsys
):
    BUILDERS[name](source)
    assert command(monkeypatch, "data", "import", name, "--source", source) == 0
    assert command(monkeypatch, "data", "verify", name) == 0
    assert "checksum as recorded" in capsys.readouterr().out
    path = next(path for path in cache.glob("*.npz"))
    with np.load(path) as z:
        np.savez(path, **dict(reversed(list(z.items()))))  # the same arrays in another order
    assert command(monkeypatch, "data", "verify", name) == 2
    assert "altered" in capsys.readouterr().err
    (cache / "checksums.json").unlink()
    assert command(monkeypatch, "data", "verify", name) == 0
    assert "no checksum recorded" in capsys.readouterr().out


def test_a_second_import_keeps_the_checksums_of_the_first(cache, source):
    for name in ("mnist", "omniglot"):
        BUILDERS[name](source)
        _sources.import_(name, source, cache)
    assert set(json.loads((cache / "checksums.json").read_text())) == {"mnist.npz", "omniglot.npz"}


def test_a_subset_is_called_one(cache, source, monkeypatch):
    archives.mnist(source)
    _sources.import_("mnist", source, cache)
    monkeypatch.setitem(_structure.COUNTS, "mnist.npz", 70_000)
    assert "a subset, 8 of 70,000" in _sources.verify("mnist", cache)[0]


# What does not come in


def refused(name, source, cache, match, error=ValueError):
    """The import fails, and the cache is as it was."""
    before = files(cache)
    with pytest.raises(error, match=match):
        _sources.import_(name, source, cache)
    assert files(cache) == before


@pytest.mark.parametrize("name", BUILDERS)
def test_what_is_not_there(cache, source, name):
    refused(name, source, cache, "^source: .* is not there", FileNotFoundError)


def test_a_failed_import_leaves_the_cache_as_it_was(cache, source):
    archives.cifar10(source)
    _sources.import_("cifar10", source, cache)
    archive = source / "cifar-10-python.tar.gz"
    archive.write_bytes(archive.read_bytes()[:-2000])
    refused("cifar10", source, cache, "truncated")


@pytest.mark.parametrize("keep", [0.02, 0.5, 0.99])
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("omniglot", "images_background.zip"),
        ("cifar10", "cifar-10-python.tar.gz"),
        ("mnist", "train-images-idx3-ubyte.gz"),
        ("miniimagenet", "images/n0100001.jpg"),
    ],
)
def test_truncated_files(cache, source, name, file, keep):
    BUILDERS[name](source)
    content = (source / file).read_bytes()
    (source / file).write_bytes(content[: int(keep * len(content))])
    refused(name, source, cache, "^source: ")


@pytest.mark.parametrize("name", ["../evil.png", "/evil.png", "a/../../evil.png", "..\\evil.png"])
def test_zip_members_outside_of_it(cache, source, name):
    archives.omniglot(source)
    with zipfile.ZipFile(source / "images_evaluation.zip", "a") as archive:
        archive.writestr(name, b"evil")
    refused("omniglot", source, cache, "outside of itself")


def test_a_tar_member_outside_of_it(cache, source):
    archives.tarred(source / "cifar-10-python.tar.gz", {"../../evil": b"evil"})
    refused("cifar10", source, cache, "outside of itself")


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_calls_is_not_run(cache, source, tmp_path, protocol):
    evil = pickle.dumps({"data": Evil(tmp_path / "owned")}, protocol)
    archives.cifar10(source, change={"test_batch": evil})
    refused("cifar10", source, cache, r"calls \w+\.system|it has (DICT|PUT), which no data set")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "call", [b"cbuiltins\neval\n", b"c__builtin__\nexec\n", b"cnumpy\nload\n", b"cnumpy\nsave\n"]
)
def test_a_pickle_may_call_nothing_but_arrays(cache, source, call):
    archives.cifar10(source, change={"data_batch_1": call + b"(" + archives.string(b"x") + b"tR."})
    refused("cifar10", source, cache, "no data set needs")


@pytest.mark.parametrize(
    "array",
    [
        archives.array(np.zeros((10, 3072), np.uint8), dtype=b"O"),
        archives.array(np.zeros((10, 3072), np.uint8)).replace(b"J\x0a", b"J\x0b", 1),
        archives.array(np.zeros((9, 3072), np.uint8)),
        archives.string(b"no array"),
    ],
    ids=["of objects", "of another shape than its bytes", "one image short", "no array"],
)
def test_batches_that_do_not_fit(cache, source, array):
    batch = archives.dictionary(
        labels=archives.listed([archives.integer(i) for i in range(10)]),
        data=array,
        filenames=archives.listed([archives.string(b"%d" % i) for i in range(10)]),
    )
    archives.cifar10(source, change={"data_batch_3": batch})
    refused("cifar10", source, cache, "^source: ")


def test_archives_that_unfold_to_far_more(cache, source, monkeypatch):
    bomb = bytes((1 << 20) + 1)
    for module, limit in (
        *((_import_labelled, "_CIFAR10_TOTAL"), (_import_labelled, "_MNIST_TOTAL")),
        *((_import_omniglot, "_TOTAL"),),
    ):
        monkeypatch.setattr(module, limit, 1 << 20)
    archives.omniglot(source)
    name = "images_evaluation/Oriya/character02/0005_01.png"
    archives.zipped(source / "images_evaluation.zip", [(name, bomb)])
    refused("omniglot", source, cache, "unpacks to more")
    archives.tarred(source / "cifar-10-python.tar.gz", {"passed/over": bomb})
    refused("cifar10", source, cache, "unpacks to more")
    archives.mnist(source)
    (source / "train-labels-idx1-ubyte.gz").write_bytes(archives.gzip.compress(bomb))
    refused("mnist", source, cache, "unpacks to more")


def test_an_incomplete_archive(cache, source):
    archives.mnist(source, train=5)
    refused("mnist", source, cache, "7 of the 8 images")
    members = list(archives.omniglot_members("background"))
    archives.omniglot(source)
    archives.zipped(source / "images_background.zip", members[:-1])
    refused("omniglot", source, cache, "20 drawings of each")
    archives.tarred(source / "cifar-10-python.tar.gz", {"cifar-10-batches-py/test_batch": b"?"})
    refused("cifar10", source, cache, r"^source: ")


def test_images_that_are_something_else(cache, source):
    archives.omniglot(source)
    small = archives.png(np.full((10, 10), True))
    name = "images_evaluation/Oriya/character01/0004_01.png"
    archives.zipped(source / "images_evaluation.zip", [(name, small)])
    refused("omniglot", source, cache, "0004_01.png in .*10x10 pixels, not 105x105")
    archives.miniimagenet(source)
    (source / "images" / "n0100001.jpg").write_bytes(b"<svg/>")
    refused("miniimagenet", source, cache, "n0100001.jpg cannot be read .*; get it again")


@pytest.mark.parametrize("row", ["../n0100000.jpg,n01", "/etc/passwd,n01", "n0100000.jpg,", "x"])
def test_rows_of_a_split_that_name_no_image(cache, source, row):
    archives.miniimagenet(source)
    with (source / "train.csv").open("a") as split:
        split.write(row + "\n")
    refused("miniimagenet", source, cache, "has a row")


def test_a_class_in_two_parts_of_the_split(cache, source):
    archives.miniimagenet(source)
    shutil.copy(source / "val.csv", source / "test.csv")
    refused("miniimagenet", source, cache, "n03 in two parts")


def test_background_characters_are_the_first(cache, source, monkeypatch):
    monkeypatch.setattr(_structure, "BACKGROUND", 2)
    refused("omniglot", archives.omniglot(source), cache, "background characters first")
