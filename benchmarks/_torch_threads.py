"""With how many threads PyTorch runs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ._measure import interleaved
from ._sine import Case, Step


def tuned(make: Callable[[Case], Step], at: Case) -> tuple[Step, int]:
    """`make(at)` with as many threads as are faster on a small case, one or all; and how many."""
    (x, y), (x_test, y_test) = at.train, at.test
    small = at._replace(train=(x[:2], y[:2]), test=(x_test[:2], y_test[:2]), steps=3, nudged=3)
    counts = sorted({1, torch.get_num_threads()})
    trials = {str(n): on_threads(n, make(small)) for n in counts}
    taken = interleaved(trials, rounds=3, least=0.0)
    best = min(counts, key=lambda n: float(np.median(taken[str(n)])))
    torch.set_num_threads(max(counts))
    return on_threads(best, make(at)), best


def on_threads(threads: int, step: Step) -> Step:
    """The step with so many of PyTorch's threads, and as many as before after it."""

    def run() -> np.ndarray:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return step()
        finally:
            torch.set_num_threads(before)

    return run
