"""Members of archives that nobody vouches for, read in memory and never written by their names."""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

_DAMAGE = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, gzip.BadGzipFile),
    *(NotImplementedError, RuntimeError),  # a compression zipfile lacks; an encrypted member
)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns what a damaged archive makes the standard library raise into one `ValueError`."""
    if not path.is_file():
        raise FileNotFoundError(f"source: {path} is not there; name the folder that holds it.")
    try:
        yield
    except _DAMAGE as error:
        raise ValueError(
            f"source: {path} is truncated or altered ({error}); download it again."
        ) from error


def zip_members(
    path: Path, wanted: re.Pattern[str], largest: int, total: int
) -> Iterator[tuple[re.Match[str], bytes]]:
    """The members of a zip whose whole name is `wanted`.

    Args:
        path: of the archive.
        wanted: the others are passed over.
        largest: bytes that one of them may have.
        total: bytes that all of them may have; a small archive can unfold to any size.

    Raises:
        ValueError: a limit is passed; a name points out of the archive; or it is damaged.
    """
    with readable(path), zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            inside(path, info.filename)
            if match := wanted.fullmatch(info.filename):
                with archive.open(info) as member:
                    data = member.read(largest + 1)
                total -= len(data)
                if len(data) > largest or total < 0:
                    raise ValueError(too_large(path))
                yield match, data


def tar_members(path: Path, wanted: re.Pattern[str], total: int) -> Iterator[tuple[str, bytes]]:
    """The files of a gzipped tar whose whole name is `wanted`, and their names; see `zip_members`.

    `total` counts all that has to be unpacked, which includes what is passed over.
    """
    with readable(path), gzip.open(path) as unpacked:
        stream: Any = _Limited(unpacked, path, total)
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                inside(path, member.name)
                if wanted.fullmatch(member.name):
                    file = archive.extractfile(member) if member.isreg() else None
                    if file is None:
                        raise ValueError(
                            f"source: {member.name} in {path} is no file; get another."
                        )
                    yield member.name, file.read()


def gunzipped(path: Path, largest: int) -> bytes:
    """The content of a gzipped file of at most so many bytes."""
    with readable(path), gzip.open(path) as file:
        data = file.read(largest + 1)
    if len(data) > largest:
        raise ValueError(too_large(path))
    return data


def inside(path: Path, name: str) -> None:
    """Raise unless a member's name stays in the folder that it would be unpacked to."""
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or re.match("[A-Za-z]:", name):
        raise ValueError(
            f"source: {path} has a member {name!r}, outside of itself, which no official archive "
            "has; get it from its official place."
        )


def too_large(path: Path) -> str:
    """The message on an archive that unfolds to more than its data set."""
    return f"source: {path} unpacks to more than the data set has; get it from its official place."


class _Limited(io.RawIOBase):
    """A stream that can be read up to a limit."""

    def __init__(self, stream: Any, path: Path, total: int) -> None:
        self._stream, self._path, self._left = stream, path, total

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._stream.read(self._left + 1 if size < 0 else size)
        self._left -= len(data)
        if self._left < 0:
            raise ValueError(too_large(self._path))
        return data
