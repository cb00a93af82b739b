"""The table of the runs of `cifar10_overfit` that are kept."""

from __future__ import annotations

from typing import Any

from ._runs import Table

COLUMNS = ("method", "seed", "loss at first", "lowest", "in the end", "accuracy", "seconds")


def table(results: dict[str, Any]) -> Table:
    """Of each run the validation loss and accuracy, the lowest first."""
    rows = sorted(results["runs"], key=lambda run: run["value"])
    return COLUMNS, [
        [f"`{run['method']}`", ", ".join(map(str, run["seeds"]))]
        + [f"{run[key]:.3f}" for key in ("first", "value", "last", "accuracy")]
        + [f"{run['seconds']:.0f}" if run["meta_steps"] else ""]
        for run in rows
    ]
