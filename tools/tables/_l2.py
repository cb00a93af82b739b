"""The table of the learned regularisers on CIFAR-10."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._runs import Run, Table, above, by_method, each, listed, mean

NEW = "new_accuracy"
COLUMNS = (
    "method", "meta-steps", "same start and batches", "each seed", "new start and batches",
    "there above `grid`, in pairs", "from validation images too", "validation images",
    "images learned from",
)  # fmt: skip


def table(results: dict[str, Any]) -> Table:
    """Test accuracy three times, the highest on a new start first; and that on images seen."""
    of = by_method(results)
    order = sorted(of, key=lambda name: -np.mean(each(of[name], NEW)))
    return COLUMNS, [_row(name, of[name], of.get("grid", [])) for name in order]


def _row(name: str, runs: list[Run], best: list[Run]) -> list[str]:
    pairs = above(runs, best, NEW)
    same, new, both = (each(runs, field) for field in ("value", NEW, "both_accuracy"))
    return [
        f"`{name}`{_numbers(name, runs)}", str(runs[0]["meta_steps"] or ""),
        mean(same, 2), listed(same, 2), mean(new, 2),
        mean(pairs, 2) if pairs and name != "grid" else "", mean(both, 2),
        *(f"{np.mean(each(runs, f'{part}_accuracy')):.1f}" for part in ("valid", "learned")),
    ]  # fmt: skip


def _numbers(name: str, runs: list[Run]) -> str:
    """Which of its numbers a grid has chosen."""
    if name != "grid":
        return ""
    chosen = {f"{10 ** next(iter(run['log10_lambda'].values()))[1]:.1g}" for run in runs}
    return f" (best: {', '.join(sorted(chosen))})"
