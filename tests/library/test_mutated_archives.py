"""Thousands of damaged archives: refused or imported identical, and the cache is as before."""

import os
from pathlib import Path

import archives
import mutations
import pytest
from bounded import bounded, memory_error
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from metacontrast.tasks import _sources, _structure

EXAMPLES = 700  # of each format
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


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


class Place:
    """A cache that holds a data set, and the folder with the archives that it came from."""

    def __init__(self, folder, name, build):
        self.name, self.folder, self.outcomes = name, folder, []
        self.source, self.cache = folder / "source", folder / "cache"
        self.source.mkdir()
        build(self.source)
        _sources.import_(name, self.source, self.cache)
        self.cached, self.good = files(self.cache), files(self.source)

    def attempt(self, file, content):
        """Import with this content of one file: whether it was taken. All else is as before."""
        (self.source / file).write_bytes(content)
        try:
            with bounded():
                _sources.import_(self.name, self.source, self.cache)
            taken = True
        except ValueError as error:
            taken = False
            said = str(error)
            assert said.startswith("source: ") and str(self.source) in said and said.isprintable()
            assert not memory_error(error), said
        assert files(self.cache) == self.cached
        assert set(os.listdir(self.folder)) == {"source", "cache"}
        assert files(self.source) == self.good | {Path(file): content}
        (self.source / file).write_bytes(self.good[Path(file)])
        self.outcomes.append(taken)
        return taken


@pytest.mark.parametrize("name", FORMATS)
def test_mutated_archives(small, tmp_path, name):
    build, file, mutate = FORMATS[name]
    place = Place(tmp_path, name, build)
    good = (place.source / file).read_bytes()
    numbers = st.integers(0, 2**20)

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from(mutate), numbers, numbers)
    def each(change, at, number):
        place.attempt(file, change(good, at, number))

    each()
    assert len(place.outcomes) >= EXAMPLES
    # What says nothing of the data, such as an owner's name, may change.
    assert 5 < sum(place.outcomes) < EXAMPLES / 2
