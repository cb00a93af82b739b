"""The table of complementary systems: each method, and what spoiling one thing costs."""

from __future__ import annotations

from typing import Any

import numpy as np

from metacontrast.train import half_width

from ._runs import Run, Table, each, listed, mean, runs_of

COLUMNS = (
    "method", "error", "beside `online`, %, in pairs", "each seed", "tested with that memory too",
)  # fmt: skip

WHOLE = ("online", "batch", "full-batch", "mix")  # of which nothing is spoiled


def table(results: dict[str, Any]) -> Table:
    """Means over seeds with half the 95% interval; the change is within a seed."""
    perfect = {run["seeds"][0]: run["value"] for run in runs_of(results, "online")}
    names = sorted(results["methods"], key=lambda name: name not in WHOLE)
    return COLUMNS, [_row(name, runs_of(results, name), perfect) for name in names]


def _row(name: str, runs: list[Run], perfect: dict[int, float]) -> list[str]:
    values, own = np.array(each(runs, "value")), np.array(each(runs, "own_memory"))
    change = 100 * (values / [perfect[run["seeds"][0]] for run in runs] - 1)
    return [
        f"`{name}`",
        mean(values, 4),
        "" if name == "online" else f"{round(change.mean()) or 0:+d} +- {half_width(change):.0f}",
        listed(values, 4),
        "" if np.array_equal(own, values) else f"{own.mean():.4f}",
    ]
