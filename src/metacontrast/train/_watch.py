"""Whether the other processes of a run are alive; if one is not, this one ends, in our words."""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from jax._src.distributed import global_state  # the only way to the store that processes share

STATUS = 2  # of a process that lost another one
_KEPT: list[Any] = []  # what C calls back must not be collected


def lost(process: int, why: str) -> str:
    """What is said where a process lost another one."""
    return (
        f"process {process} lost another one ({why}). Its own output tells why. The last "
        "checkpoint is whole: start all processes again, or a single one, with resume=True "
        "(--resume)."
    )


@contextmanager
def waiting(process: int, timeout: int) -> Iterator[None]:
    """End this process if what is in here, waiting for all to come, takes longer than that.

    JAX itself would abort it, with a stack trace.
    """
    why = f"not all have come within {timeout} s"
    timer = threading.Timer(timeout, _leave, (lost(process, why),))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def watch(process: int, processes: int, timeout: float) -> None:
    """From now on, end this process once another one gave no sign of life for that many seconds.

    Each counts on in the store of process 0. If that one hangs, so does the asking, which counts
    as silence too. One that has ended as it should is waited for no more.
    """
    others = [i for i in range(processes) if i != process]
    seen = dict.fromkeys(others, ("", time.monotonic()))
    answered = [time.monotonic()]
    is_over = threading.Event()

    def beat() -> None:
        n = 0
        while not is_over.is_set():
            n += 1
            _tell(process, str(n))
            for i in others:
                value = _told(i)
                if value is not None and value != seen[i][0]:
                    seen[i] = value, time.monotonic()
            answered[0] = time.monotonic()
            is_over.wait(timeout / 10)

    def look() -> None:
        while not is_over.wait(timeout / 10):
            now = time.monotonic()
            silent = [
                i for i, (value, at) in seen.items() if value != "over" and now - at > timeout
            ]
            if now - answered[0] > timeout:
                silent = [0]
            if silent and not is_over.is_set():
                why = f"process {silent[0]} has given no sign of life for {timeout} s"
                _leave(lost(process, why))

    def end() -> None:
        is_over.set()
        _tell(process, "over")

    atexit.register(end)  # before JAX's own, which waits for all
    for loop in (beat, look):
        threading.Thread(target=loop, daemon=True).start()
    _explain_aborts(process)


def _tell(process: int, value: str) -> None:
    client = global_state.client
    try:
        if client is not None:
            client.key_value_set(f"metacontrast/{process}", value, True)
    except Exception:  # it is lost, of which `look` or a computation will tell
        return


def _told(process: int) -> str | None:
    client = global_state.client
    try:
        told: str | None = client and client.key_value_try_get(f"metacontrast/{process}")
        return told
    except Exception:  # nothing yet
        return None


def _explain_aborts(process: int) -> None:
    """JAX's runtime aborts a process whose process 0 is gone, often before Python hears of it."""
    if sys.platform == "win32":
        return
    text = lost(process, "JAX's runtime has ended this one")
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda number: _leave(text))
    _KEPT.append(handler)
    set_handler = ctypes.CDLL(None).signal
    set_handler.argtypes, set_handler.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
    set_handler(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))


def _leave(text: str) -> NoReturn:
    os.write(2, f"{text}\n".encode())
    os._exit(STATUS)
