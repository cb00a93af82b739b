"""SIGTERM and Ctrl-C: a run ends between two dispatches, and keeps what it has done."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from .._exit import TERMINATED, exit_when_terminated
from ._processes import is_first

_OURS = (signal.SIG_DFL, signal.default_int_handler, exit_when_terminated)


class Stop:
    """Whether the run was asked to end. A second signal does what it would have done without us."""

    def __init__(self) -> None:
        self._asked, self._can_wait = 0, True
        self._before: dict[int, Any] = {}

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Catch the signals in here, in the main thread and where nobody else does."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                if signal.getsignal(number) in _OURS:
                    self._before[number] = signal.signal(number, self._catch)
        try:
            yield
        finally:
            self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _catch(self, number: int, frame: FrameType | None) -> None:
        self._asked = number
        self._restore()
        if not self._can_wait:
            raise StopNow

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """In here, where others' code may take long, a signal raises `StopNow`.

        Of several processes none may leave the others, which wait for it: they go on.
        """
        if jax.process_count() > 1:
            yield
            return
        if self._asked:
            raise StopNow
        self._can_wait = False
        try:
            yield
        finally:
            self._can_wait = True

    @property
    def asked(self) -> bool:
        """Whether a signal has come, in any process; all of them must ask together."""
        if jax.process_count() > 1:
            # What JAX itself offers for this (preemption) hears SIGTERM alone.
            every = multihost_utils.process_allgather(np.int32(self._asked))
            self._asked = int(np.max(every))
        return self._asked != 0

    def end(self, said: str) -> NoReturn:
        """End the run: as Ctrl-C does in Python, or by the exit status of SIGTERM.

        Raises:
            KeyboardInterrupt: by Ctrl-C, with what is to be said.
            SystemExit: by SIGTERM, after it was said on stderr.
        """
        if self._asked == signal.SIGINT:
            raise KeyboardInterrupt(said)
        if is_first():
            print(said, file=sys.stderr, flush=True)
        raise SystemExit(TERMINATED)


class StopNow(BaseException):
    """A signal, in `Stop.at_once`."""
