"""Hundreds of damaged archives each: refused or imported identical; the cache is as before."""

import io
import os
from pathlib import Path

import archives
import mutations
import numpy as np
import pytest
from bounded import bounded, memory_error
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from metacontrast.tasks import _cache, _images, _sources, _structure
from metacontrast.tasks._untrusted import Untrusted

EXAMPLES = 400  # of each format
COUNTS = {
    "omniglot.npz": 4,
    "mnist.npz": 3,
    "cifar10_train.npz": 10,
    "cifar10_test.npz": 2,
}


@pytest.fixture(scope="module")
def small():
    """Data sets so small that an import takes milliseconds, none with a published checksum."""
    with pytest.MonkeyPatch.context() as patch:
        for file, n in COUNTS.items():
            patch.setitem(_structure.COUNTS, file, n)
        for file in _structure.CLASSES:
            patch.setitem(_structure.CLASSES, file, 2)
        patch.setattr(_structure, "BACKGROUND", 1)
        patch.setattr(_structure, "DRAWINGS", 2)
        patch.setattr(
            archives, "ALPHABETS", {"background": {"Greek": (1,)}, "evaluation": {"Oriya": (2,)}}
        )
        for name, published in _sources.SOURCES.items():
            patch.setitem(_sources.SOURCES, name, published._replace(downloads={}))
        yield


def omniglot(folder):
    for part in archives.ALPHABETS:
        members = [(n, d) for n, d in archives.omniglot_members(part) if n[-6:-4] in ("01", "02")]
        archives.zipped(folder / f"images_{part}.zip", members)


def cifar10(folder):
    meta = archives.dictionary(label_names=archives.listed(map(archives.string, (b"cat", b"dog"))))
    archives.cifar10(folder, each=2, change={"batches.meta": meta})


def mnist(folder):
    archives.mnist(folder, train=2, test=1)


FORMATS = {
    "omniglot": (omniglot, "images_background.zip", mutations.ZIP),
    "cifar10": (cifar10, "cifar-10-python.tar.gz", mutations.TAR),
    "mnist": (mnist, "train-images-idx3-ubyte.gz", mutations.IDX),
}


def refused(start, call):
    """The error, in one line, of a call that raises it in bounded time and memory; else None."""
    try:
        with bounded():
            call()
    except ValueError as error:
        assert str(error).startswith(start) and str(error).isprintable(), error
        assert not memory_error(error), error
        return error
    return None


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


class Place:
    """A cache that holds a data set, and the folder with the archives that it came from."""

    def __init__(self, folder, name, build):
        self.name, self.folder = name, folder
        self.source, self.cache = folder / "source", folder / "cache"
        self.source.mkdir()
        build(self.source)
        _sources.import_(name, self.source, self.cache)
        self.cached, self.good = files(self.cache), files(self.source)

    def attempt(self, file, content):
        """Import with this content of one file: whether it was taken. All else is as before."""
        (self.source / file).write_bytes(content)
        import_ = lambda: _sources.import_(self.name, self.source, self.cache)
        error = refused("source: ", import_)
        assert error is None or str(self.source) in str(error)
        assert files(self.cache) == self.cached
        assert set(os.listdir(self.folder)) == {"source", "cache"}
        assert files(self.source) == self.good | {Path(file): content}
        (self.source / file).write_bytes(self.good[Path(file)])
        return error is None


def mutated(attempt, mutate, good, examples=EXAMPLES):
    """Call `attempt` with this content, changed in so many ways: how often was it taken?"""
    taken, numbers = [], st.integers(0, 2**20)

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from(mutate), numbers, numbers)
    def each(change, at, number):
        taken.append(attempt(change(good, at, number)))

    each()
    assert len(taken) >= examples
    return sum(taken)


@pytest.mark.parametrize("name", FORMATS)
def test_mutated_archives(small, tmp_path, name):
    build, file, mutate = FORMATS[name]
    place = Place(tmp_path, name, build)
    taken = mutated(lambda content: place.attempt(file, content), mutate, place.good[Path(file)])
    # What says nothing of the data, such as an owner's name, may change.
    assert 5 < taken < EXAMPLES / 2


def test_mutated_files_of_the_cache(small, tmp_path):
    place = Place(tmp_path, "mnist", mnist)
    file = place.cache / "mnist.npz"
    (place.cache / "checksums.json").unlink()
    expected = _cache.load(place.cache, "mnist.npz")

    def attempt(content):
        file.write_bytes(content)

        def load():
            for key, array in _cache.load(place.cache, "mnist.npz").items():
                np.testing.assert_array_equal(array, expected[key])

        return refused("mnist: ", load) is None

    assert 5 < mutated(attempt, mutations.ZIP, file.read_bytes(), 300) < 150


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_mutated_images(kind):
    where, out = Untrusted("source", "here"), io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    Image.fromarray(pixels).save(out, kind)
    if kind != "PNG":  # the others have no checksums: what is damaged may be an image too
        pixels = None

    def read(content):
        image = _images.image(where, content, ("PNG", "JPEG", "WEBP"), 1 << 20)
        read = np.asarray(_images.rgb(where, image))
        assert pixels is None or np.array_equal(read, pixels)

    attempt = lambda content: refused("source: here", lambda: read(content)) is None
    assert 5 < mutated(attempt, mutations.ANY, out.getvalue(), 200) < 195
