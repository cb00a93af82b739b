"""The table of the overfitting test on CIFAR-10."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._runs import Run, Table, above, by_method, each, listed, mean

COLUMNS = (
    "method", "meta-steps", "lowest loss of each seed", "mean", "in the end", "accuracy",
    "above the best, in pairs", "seconds",
)  # fmt: skip


def table(results: dict[str, Any]) -> Table:
    """Of each method the validation loss and accuracy over seeds, the lowest first."""
    of = by_method(results)
    order = sorted(of, key=lambda name: float(np.mean(each(of[name], "value"))))
    best, *_ = order
    return COLUMNS, [_row(name, of[name], [] if name == best else of[best]) for name in order]


def _row(name: str, runs: list[Run], best: list[Run]) -> list[str]:
    pairs = above(runs, best)
    steps = runs[0]["meta_steps"]
    return [
        f"`{name}`", str(steps or ""), listed(each(runs, "value"), 3),
        mean(each(runs, "value"), 3), f"{np.mean(each(runs, 'last')):.3f}",
        f"{np.mean(each(runs, 'accuracy')):.3f}", mean(pairs, 3) if pairs else "",
        f"{np.mean(each(runs, 'seconds')):.0f}" if steps else "",
    ]  # fmt: skip
