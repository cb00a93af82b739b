"""Ctrl-C while all that takes long is imported: one line. So it is imported before."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn


def _end(number: int, frame: FrameType | None) -> NoReturn:
    # An exception in the midst of an extension's import would be another one, or an abort.
    os.write(2, b"stopped before it began.\n")
    os._exit(128 + number)


def over() -> None:
    """All is imported: Ctrl-C is what it was."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


# Only where an experiment is what was started, and Ctrl-C is not ignored.
is_started = Path(sys.argv[0]).resolve().parent == Path(__file__).parent
if is_started and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _end)
