"""With how many threads PyTorch runs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ._measure import time_in_turns
from ._sine import Gradient, SineCase


def with_best_threads(make: Callable[[SineCase], Gradient], case: SineCase) -> tuple[Gradient, int]:
    """`make(case)` with one thread or all, whichever is faster on a small case; and how many."""
    (x, y), (x_test, y_test) = case.train, case.test
    small = case._replace(train=(x[:2], y[:2]), test=(x_test[:2], y_test[:2]), steps=3, nudged=3)
    counts = sorted({1, torch.get_num_threads()})
    trials = {str(n): on_threads(n, make(small)) for n in counts}
    seconds = time_in_turns(trials, rounds=3, min_sample=0.0)
    best = min(counts, key=lambda n: float(np.median(seconds[str(n)])))
    torch.set_num_threads(max(counts))
    return on_threads(best, make(case)), best


def on_threads(threads: int, compute: Gradient) -> Gradient:
    """The same with so many of PyTorch's threads, and as many as before after it."""

    def run() -> np.ndarray:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return compute()
        finally:
            torch.set_num_threads(before)

    return run
