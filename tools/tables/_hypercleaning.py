"""The table of the wrong labels."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._runs import Run, Table, by_method, each, mean

COLUMNS = ("method", "beta", "test accuracy", "+ validation", "wrong labels found (AUC)")


def table(results: dict[str, Any]) -> Table:
    """Of each method, means over seeds: the worst first."""
    of = by_method(results)
    order = sorted(of, key=lambda name: _mean(of[name], "value"))
    return COLUMNS, [_row(name, of[name]) for name in order]


def _row(name: str, runs: list[Run]) -> list[str]:
    contrasts = name.startswith("cml")
    betas = ", ".join(dict.fromkeys(f"{run['beta']:.2g}" for run in runs)) if contrasts else ""
    found = runs[0]["auc"] is not None
    return [
        f"`{name}`",
        betas,
        mean(each(runs, "value"), 4),
        "" if name == "valid" else f"{_mean(runs, 'with_valid'):.4f}",
        f"{_mean(runs, 'auc'):.4f}" if found else "",
    ]


def _mean(runs: list[Run], field: str) -> float:
    return float(np.mean(each(runs, field)))
