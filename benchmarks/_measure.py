"""Times of programs that take turns: medians over many rounds, and their spread."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

Program = Callable[[], Any]  # does its work, and returns when it is done
Clock = Callable[[], float]  # in seconds


class Measurement(NamedTuple):
    """One cell of a table: a median with its quartiles, or one number without."""

    subject: str
    quantity: str
    value: float
    low: float | None = None
    high: float | None = None


# All that was timed since it was cleared, rounds that are not over included: what is kept of a part
# that is interrupted.
timed: list[dict[str, list[float]]] = []


def summarise(subject: str, quantity: str, values: Any) -> Measurement:
    """Median and quartiles.

    Example:
        >>> summarise("ours", "ms", [4.0, 1.0, 2.0, 3.0, 9.0])
        Measurement(subject='ours', quantity='ms', value=3.0, low=2.0, high=4.0)
    """
    low, median, high = (float(x) for x in np.percentile(np.asarray(values, float), (25, 50, 75)))
    return Measurement(subject, quantity, median, low, high)


def time_in_turns(
    programs: Mapping[str, Program],
    rounds: int,
    min_sample: float = 0.05,
    max_total: float = math.inf,
    clock: Clock = time.perf_counter,
) -> dict[str, np.ndarray]:
    """Seconds of one call of each program, in each round.

    A round runs every program, one after the other, so that whatever else the machine does in that
    time slows all of them; every other round goes backwards, so that nobody always runs after the
    same neighbour. Each was called once before, to compile.

    Args:
        programs: by name.
        rounds: at least 1.
        min_sample: seconds of a sample; a program that is faster is called several times for one.
        max_total: seconds after which no further round is begun; three are taken in any case.
        clock: what measures.
    """
    calls = {name: _calls(program, min_sample, clock) for name, program in programs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    timed.append(seconds)
    began = clock()
    for i in range(rounds):
        if i >= 3 and clock() - began > max_total:
            break
        for name in list(programs)[:: -1 if i % 2 else 1]:
            seconds[name].append(_seconds(programs[name], calls[name], clock))
    return {name: np.asarray(times) for name, times in seconds.items()}


def ratios(seconds: Mapping[str, np.ndarray], name: str, over: str) -> np.ndarray:
    """How many times longer `name` took than `over`, round by round."""
    return seconds[name] / seconds[over]


def _calls(program: Program, min_sample: float, clock: Clock) -> int:
    program()
    return max(1, math.ceil(min_sample / max(_seconds(program, 1, clock), 1e-7)))


def _seconds(program: Program, calls: int, clock: Clock) -> float:
    began = clock()
    for _ in range(calls):
        program()
    return (clock() - began) / calls
