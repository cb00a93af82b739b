"""Downloads that go on where they stopped."""

from __future__ import annotations

import http.client
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ._store import digest

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
        ConnectionError: the server cannot be reached, refuses, or stopped halfway; what came is
            kept for the next attempt.
        ValueError: another checksum; the file is deleted.
    """
    if path.is_file() and digest(path, "md5") == md5:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        _complete(url, part, progress)
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionError(
            f"fetch: {url} failed ({error}); run the same command again to go on from where it "
            "stopped, or download it by other means and use `metacontrast data import`."
        ) from error
    if (actual := digest(part, "md5")) != md5:
        part.unlink()
        raise ValueError(
            f"fetch: {url} has the checksum {actual}, not {md5} as published, and was deleted; try "
            "again, and if that does not help, the file has changed: get it by other means."
        )
    part.replace(path)


def _complete(url: str, part: Path, progress: bool) -> None:
    """Load what is missing from `part`."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # nothing lies beyond what is there
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
    with bar, part.open("r+b" if have else "wb") as file:
        file.seek(have)
        while block := response.read(_BLOCK):
            file.write(block)
            have += len(block)
            bar.update(len(block))
    if total is not None and have < total:
        raise ConnectionError(f"it ended after {have} of {total} bytes")
