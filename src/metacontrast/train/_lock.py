"""One run a folder: whoever holds its lock, by which host and process."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

LOCK = "run.lock"
_OURS = b"process "


class Lock:
    """The lock of a folder, held by this process until `release`, or its end, whatever that is.

    The system itself holds it (`flock`), so that no death leaves one behind. The file stays, and
    says who was the last to hold it.
    """

    def __init__(self, folder: Path) -> None:
        """Take it.

        Raises:
            ValueError: another run holds it, whose host and process are named.
            OSError: the folder cannot be written.
        """
        path = folder / LOCK
        self._lock = filelock.FileLock(path, timeout=0)
        try:
            self._lock.acquire()
        except filelock.Timeout as error:
            raise ValueError(
                f"out: another run is writing {folder} ({_holder(path)}); wait for its end, stop "
                "it, or choose another folder."
            ) from error
        # Where the file system has no locks, the content is filelock's own, and the lock itself.
        if (path.read_bytes() or _OURS).startswith(_OURS):
            path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")

    def release(self) -> None:
        """Let others have it."""
        self._lock.release()


_held: dict[Path, Lock] = {}  # by `hold`


def hold(folder: Path) -> None:
    """Take the lock of a folder for as long as this process lives, unless it has it already."""
    if folder.resolve() not in _held:
        _held[folder.resolve()] = Lock(folder)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Take the lock of a folder in here, unless this process has it by `hold`."""
    if folder.resolve() in _held:
        yield
        return
    lock = Lock(folder)
    try:
        yield
    finally:
        lock.release()


def _holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or "it does not say who"
    except OSError:
        return "it does not say who"
