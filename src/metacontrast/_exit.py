"""How a command ends that is told to: one line, and the exit status of the signal."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

TERMINATED, INTERRUPTED = 128 + signal.SIGTERM, 128 + signal.SIGINT  # exit statuses
SAID = "stopped; what it had finished is kept. Start it again to go on, a run with --resume."


def exit_when_terminated(number: int, frame: FrameType | None) -> NoReturn:
    """A handler of SIGTERM."""
    print(SAID, file=sys.stderr, flush=True)
    raise SystemExit(TERMINATED)


@contextmanager
def terminated_in_words() -> Iterator[None]:
    """SIGTERM ends what is in here as Ctrl-C does, unless somebody else waits for it."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, exit_when_terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
