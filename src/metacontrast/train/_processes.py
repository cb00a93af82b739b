"""Several processes in one run: the first reads and writes files, all compute."""

from __future__ import annotations

import atexit
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

T = TypeVar("T")


class LostProcessError(ConnectionError):
    """Another process of this run ended, or cannot be reached. Checkpoints are kept."""


@contextmanager
def explain_lost_process() -> Iterator[None]:
    """Explain what it means if JAX fails in here while several processes compute.

    JAX's own runtime may be quicker: `HEARTBEAT` after the last sign of life of a process it ends
    the others by SIGABRT, saying that another one died. So it does where one dies while a
    checkpoint is written, for Orbax waits for all.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, TimeoutError) as error:  # the latter is Orbax's
        if jax.process_count() == 1:
            raise
        # At exit JAX would wait for the process that is gone.
        atexit.register(_leave)
        raise LostProcessError(
            f"process {jax.process_index()} lost another one, which ended or cannot be reached. "
            "Its own output tells why. The last checkpoint is whole: start all processes "
            "again, or a single one, with resume=True (--resume). JAX says: "
            f"{str(error).splitlines()[0]}"
        ) from error


def _leave() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(2)


def is_first() -> bool:
    """Whether this process is the one that writes files and prints."""
    return jax.process_index() == 0


def by_first(act: Callable[[], T]) -> T:
    """What `act()` returns or raises in the first process, which alone calls it; in all of them.

    All processes must come here, in the same order. So they agree on what is in a folder, also
    where only the first can see it.
    """
    if jax.process_count() == 1:
        return act()
    result: T | None = None
    error: Exception | None = None
    if is_first():
        try:
            result = act()
        except Exception as raised:  # whatever it is, the others must not wait for an answer
            error = raised
    result, error = _broadcast((result, error))
    if error is not None:
        raise error
    return result  # type: ignore[return-value]


def _broadcast(value: T) -> T:
    """The value of the first process, in all."""
    sent = np.frombuffer(pickle.dumps(value), np.uint8) if is_first() else np.zeros(0, np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(sent))))
    buffer = sent if is_first() else np.zeros(length, np.uint8)
    # From our own first process: no more to be mistrusted than the gradients it sends.
    return pickle.loads(np.asarray(multihost_utils.broadcast_one_to_all(buffer)).tobytes())
