"""Time taken side by side: medians of what was measured in turn, and their spread."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

Subject = Callable[[], Any]  # does its work, and returns when it is done


class Figure(NamedTuple):
    """One cell of a table: a median with its quartiles, or one number without."""

    subject: str
    quantity: str
    value: float
    low: float | None = None
    high: float | None = None


def summary(subject: str, quantity: str, values: Any) -> Figure:
    """Median and quartiles.

    Example:
        >>> summary("ours", "ms", [4.0, 1.0, 2.0, 3.0, 9.0])
        Figure(subject='ours', quantity='ms', value=3.0, low=2.0, high=4.0)
    """
    low, median, high = (float(x) for x in np.percentile(np.asarray(values, float), (25, 50, 75)))
    return Figure(subject, quantity, median, low, high)


def interleaved(
    subjects: Mapping[str, Subject],
    rounds: int,
    least: float = 0.05,
    most: float = math.inf,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, np.ndarray]:
    """Seconds of one call of each subject, in each round.

    A round runs every subject, one after the other, so that whatever else the machine does in that
    time slows all of them; every other round goes backwards, so that nobody always runs after the
    same neighbour. Each was called once before, to compile.

    Args:
        subjects: by name.
        rounds: at least 1.
        least: seconds of a sample; a subject that is faster is called several times for one.
        most: seconds after which no further round is begun; three are taken in any case.
        clock: in seconds.
    """
    calls = {name: _calls(subject, least, clock) for name, subject in subjects.items()}
    taken: dict[str, list[float]] = {name: [] for name in subjects}
    began = clock()
    for i in range(rounds):
        if i >= 3 and clock() - began > most:
            break
        for name in list(subjects)[:: -1 if i % 2 else 1]:
            taken[name].append(_seconds(subjects[name], calls[name], clock))
    return {name: np.asarray(times) for name, times in taken.items()}


def ratios(seconds: Mapping[str, np.ndarray], name: str, over: str) -> np.ndarray:
    """How many times longer `name` took than `over`, round by round."""
    return seconds[name] / seconds[over]


def _calls(subject: Subject, least: float, clock: Callable[[], float]) -> int:
    subject()
    return max(1, math.ceil(least / max(_seconds(subject, 1, clock), 1e-7)))


def _seconds(subject: Subject, calls: int, clock: Callable[[], float]) -> float:
    began = clock()
    for _ in range(calls):
        subject()
    return (clock() - began) / calls
