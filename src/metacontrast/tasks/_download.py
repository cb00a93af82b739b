"""Downloads that go on where they stopped."""

from __future__ import annotations

import http.client
import os
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, BinaryIO

from tqdm import tqdm

from ._store import digest
from ._untrusted import plain

LARGEST = 1 << 28  # bytes; CIFAR-10 has 170 million
_BLOCK = 1 << 18
_TIMEOUT = 60.0


def download(url: str, path: Path, md5: str, progress: bool = True) -> None:
    """Download `url` to `path`, on from what an interrupted attempt has left in `path`.part.

    Args:
        url: with a server that knows ranges; from one that does not, all is loaded again.
        path: where to. If a file with this checksum is there, nothing is loaded.
        md5: as published with the data. It guards against damage, not against malice.
        progress: show a bar on stderr.

    Raises:
        ConnectionError: the server cannot be reached, refuses, stopped halfway, or does not stop;
            what came is kept for the next attempt.
        ValueError: another checksum; the file is deleted.
    """
    if path.is_file() and _digest(path) == md5:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    if part.is_symlink() or (part.exists() and not part.is_file()):
        part.unlink()  # nothing that a download has left
    try:
        _complete(url, part, progress)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise ConnectionError(
            f"fetch: {url} failed ({plain(str(error))}); run the same command again to go on from "
            "where it stopped, or download it by other means and use `metacontrast data import`."
        ) from error
    if (actual := _digest(part)) != md5:
        part.unlink()
        raise ValueError(
            f"fetch: {url} has the checksum {actual}, not {md5} as published, and was deleted; try "
            "again, and if that does not help, the file has changed: get it by other means."
        )
    part.replace(path)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return digest(file, "md5")


def _complete(url: str, part: Path, progress: bool) -> None:
    """Load what is missing from `part`."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:  # nothing lies beyond what is there
            raise
        if error.headers.get("Content-Range") != f"bytes */{have}":
            part.unlink()  # it is not this file's beginning
            _complete(url, part, progress)
        return
    with response:
        if have and not _continues(response, have):
            have = 0
        _append(response, part, have, progress)


def _continues(response: Any, have: int) -> bool:
    """Whether what comes is the rest of the file, and not all of it."""
    served = response.headers.get("Content-Range") or ""
    return response.status == 206 and re.match(rf"bytes {have}-", served) is not None


def _append(response: Any, part: Path, have: int, progress: bool) -> None:
    length = response.headers.get("Content-Length")
    total = None if length is None else have + int(length)
    bar = tqdm(
        total=total,
        initial=have,
        unit="B",
        unit_scale=True,
        desc=part.stem,
        disable=not progress,
    )
    with bar, _private(part, have) as file:
        while block := response.read(_BLOCK):
            have += len(block)
            if have > LARGEST:
                raise ValueError(f"it has more than {LARGEST:,} bytes")
            file.write(block)
            bar.update(len(block))
    if total is not None and have < total:
        raise ConnectionError(f"it ended after {have} of {total} bytes")


def _private(part: Path, have: int) -> BinaryIO:
    """The unfinished file, which no one else can read, and which is no link to another one."""
    if not have:
        part.unlink(missing_ok=True)
        return open(part, "xb", opener=lambda path, flags: os.open(path, flags, 0o600))
    file, there = part.open("r+b"), os.lstat(part)
    if not os.path.samestat(there, os.fstat(file.fileno())) or there.st_nlink != 1:
        file.close()
        raise ValueError(f"{part} is a link; delete it")
    file.seek(have)
    return file
