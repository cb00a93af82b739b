"""Where the data sets come from, and the three things that can be done about them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ._cache import cached, load
from ._download import LARGEST, download
from ._import_images import miniimagenet_arrays
from ._import_labelled import cifar10_arrays, mnist_arrays
from ._import_omniglot import omniglot_arrays
from ._store import digest, recorded, store
from ._structure import COUNTS, FIELDS, distinct, images_in, name_of
from ._untrusted import Untrusted

Files = dict[str, dict[str, Any]]


class Source(NamedTuple):
    """How a data set comes into the cache: `read(folder)`, and its downloads, {url: md5}."""

    read: Callable[[Path], Files]
    downloads: dict[str, str]


# The checksums are those that torchvision gives for the same files; CIFAR-10's is also published
# with the data.
_LAKE = "https://github.com/brendenlake/omniglot/raw/master/python"
_KRIZHEVSKY = "https://www.cs.toronto.edu/~kriz"
_MIRROR = "https://ossci-datasets.s3.amazonaws.com/mnist"  # the first place refuses downloads
SOURCES = {
    "omniglot": Source(
        omniglot_arrays,
        {
            f"{_LAKE}/images_background.zip": "68d2efa1b9178cc56df9314c21c6e718",
            f"{_LAKE}/images_evaluation.zip": "6b91aef0f799c5bb55b94e3f2daec811",
        },
    ),
    "miniimagenet": Source(miniimagenet_arrays, {}),
    "cifar10": Source(
        cifar10_arrays,
        {f"{_KRIZHEVSKY}/cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a"},
    ),
    "mnist": Source(
        mnist_arrays,
        {
            f"{_MIRROR}/train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            f"{_MIRROR}/train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
            f"{_MIRROR}/t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
            f"{_MIRROR}/t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
        },
    ),
}


def fetch(name: str, folder: Path, progress: bool = True) -> list[str]:
    """Download the official files of a data set into `folder`/downloads, and import them.

    Raises:
        ValueError: an unknown name, one without an official download, or a wrong checksum.
        ConnectionError: see `download`; the same call goes on from where it stopped.
    """
    source = _source(name)
    if not source.downloads:
        raise ValueError(
            f"name: {name} has no official download; get its images and split, and run "
            f"`metacontrast data import {name} --source FOLDER`."
        )
    downloads = folder / "downloads" / name
    for url, md5 in source.downloads.items():
        download(url, downloads / url.rpartition("/")[2], md5, progress)
    return import_(name, downloads, folder)


def import_(name: str, path: Path, folder: Path) -> list[str]:
    """Convert the official files at `path` into the cache's layout, in `folder`.

    Returns:
        What is there now, a line for each file.

    Raises:
        ValueError, FileNotFoundError: the files are not there, damaged or incomplete, or not those
            whose checksums are published. The cache is then left as it was.
    """
    source = _source(name)
    _published(path, source.downloads)
    files = source.read(path)
    where = Untrusted("source", path)
    _distinct(where, files)
    for file, arrays in files.items():
        if (n := images_in(where, file, arrays)) != COUNTS[file]:
            raise where.refused(f"holds {n:,} of the {COUNTS[file]:,} images of {file}")
    store(folder, files)
    return [f"{folder / file}: {COUNTS[file]:,} images" for file in files]


def verify(name: str, folder: Path) -> list[str]:
    """Look at all that the cache has of a data set.

    Returns:
        A line for each file: how many images it has, whether that is all, and whether its checksum
        was recorded when it was imported (a file put there by hand is judged by its structure).

    Raises:
        ValueError, FileNotFoundError: a file is not there, damaged, or altered since its import.
    """
    _source(name)
    known, lines = recorded(folder), []
    files = {file: load(folder, file) for file in FIELDS if name_of(file) == name}
    for file, arrays in files.items():
        n, of = images_in(cached(folder, file), file, arrays), COUNTS[file]
        amount = f"{n:,} images" if n == of else f"a subset, {n:,} of {of:,} images"
        record = "checksum as recorded" if file in known else "no checksum recorded"
        lines.append(f"{file}: {amount}; {record}")
    return lines


def _source(name: str) -> Source:
    if name not in SOURCES:
        raise ValueError(f"name: unknown {name!r}; choose one of {', '.join(SOURCES)}.")
    return SOURCES[name]


def _published(path: Path, downloads: dict[str, str]) -> None:
    """Raise if one of the official files is here with another checksum than the published one."""
    for url, md5 in downloads.items():
        named_itself = len(downloads) == 1 and not path.is_dir()
        official = Untrusted("source", path if named_itself else path / url.rpartition("/")[2])
        if Path(official.what).exists():
            with official.opened(LARGEST) as file:
                if (actual := digest(file, "md5")) != md5:
                    raise official.refused(f"has the checksum {actual}, not {md5} as published")


def _distinct(where: Untrusted, files: Files) -> None:
    """Raise if a class that should be unseen is in two parts of miniImageNet."""
    distinct(where, {f: z["classes"] for f, z in files.items() if name_of(f) == "miniimagenet"})
