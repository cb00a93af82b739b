"""Several processes in one run: the first reads and writes files, all compute."""

from __future__ import annotations

import atexit
import builtins
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from ._watch import STATUS, lost

T = TypeVar("T")


class LostProcessError(ConnectionError):
    """Another process of this run ended, or cannot be reached. Checkpoints are kept."""


@contextmanager
def explain_lost_process() -> Iterator[None]:
    """Explain what it means if JAX fails in here while several processes compute.

    One that hangs is noticed by `_watch`, as is one that JAX's own runtime is quicker to end.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if jax.process_count() == 1 or not _STATUS.match(str(error)):
            raise
        # At exit JAX would wait for the process that is gone.
        atexit.register(_leave)
        said = str(error).splitlines()[0]
        raise LostProcessError(
            f"{lost(jax.process_index(), 'it ended')} JAX says: {said}"
        ) from error


# Of an error of JAX's runtime, which comes as one of its own or as a ValueError.
_STATUS = re.compile("[A-Z_]+: ")


def _leave() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(STATUS)


def is_first() -> bool:
    """Whether this process is the one that writes files and prints."""
    return jax.process_index() == 0


def by_first(act: Callable[[], T]) -> T:
    """What `act()` returns or raises in the first process, which alone calls it; in all of them.

    All processes must come here, in the same order. So they agree on what is in a folder, also
    where only the first can see it. What it returns is sent as JSON; of an error its kind among
    Python's own, and its text.
    """
    if jax.process_count() == 1:
        return act()
    sent: dict[str, Any] = {}
    if is_first():
        try:
            sent = {"result": act()}
        except Exception as raised:  # whatever it is, the others must not wait for an answer
            sent = {"error": _named(raised), "text": str(raised)}
    received = _broadcast(sent)
    if "error" in received:
        raise getattr(builtins, received["error"])(received["text"])
    result: T = received["result"]
    return result


def _named(error: Exception) -> str:
    """The class of Python's own that it is of, and that takes a text."""
    named = next(kind for kind in type(error).__mro__ if kind.__module__ == "builtins")
    return "ValueError" if issubclass(named, UnicodeError) else named.__name__


def _broadcast(value: dict[str, Any]) -> dict[str, Any]:
    """The value of the first process, in all; as JSON, which runs no code."""
    text = json.dumps(value).encode() if is_first() else b""
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    buffer = np.frombuffer(text, np.uint8) if is_first() else np.zeros(length, np.uint8)
    received = np.asarray(multihost_utils.broadcast_one_to_all(buffer)).tobytes()
    found: dict[str, Any] = json.loads(received)
    return found
