"""What a refusal may take, processor time and memory, and how it reads."""

import resource
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest

SECONDS, BYTES = 2, 1 << 28  # of processor time, beyond what there is
WAITING = 60  # seconds for a pipe that no one writes to, say


class TooLong(BaseException):
    """No error of a parser's, so nothing takes it for one."""


@contextmanager
def bounded():
    """Ends what takes too long; a piece of memory larger than there may be is a `MemoryError`."""

    def stop(*_):
        raise TooLong

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = {kind: signal.signal(kind, stop) for kind in (signal.SIGPROF, signal.SIGALRM)}
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + BYTES, hard))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, WAITING)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        for kind, handler in before.items():
            signal.signal(kind, handler)


def memory_error(error):
    """Whether it or what led to it is one."""
    return error is not None and (
        isinstance(error, MemoryError) or memory_error(error.__cause__ or error.__context__)
    )


def refused(match, call, *arguments):
    """One line that names where and says what to do, in bounded time and memory."""
    with pytest.raises(ValueError, match=match) as caught, bounded():
        call(*arguments)
    said = str(caught.value)
    assert said.isprintable() and "; " in said and said.endswith("."), said
    assert not memory_error(caught.value)
