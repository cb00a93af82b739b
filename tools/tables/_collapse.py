"""Whether validation ever falls while all weights are meta-trained: of small runs, over seeds."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._runs import Run, Table

COLUMNS = (
    "seed", "filters", "tasks", "meta-steps", "looks", "validation, lowest after a quarter",
    "highest", "in the end", "largest fall from the highest so far", "residual, largest then",
    "test", "minutes",
)  # fmt: skip


def table(results: dict[str, Any]) -> Table:
    """A row a run; falls are of percent of validation tasks, all of them alike at every look."""
    return COLUMNS, [_row(run, results["methods"][run["method"]]) for run in results["runs"]]


def _row(run: Run, about: dict[str, Any]) -> list[str]:
    s, curve = about["settings"], run["curve"]
    late = [look for look in curve if 4 * look["step"] >= s["steps"]]
    valid = np.array([look["valid_accuracy"] for look in late])
    return [
        str(run["seeds"][0]), str(s["filters"][-1]), str(s["tasks"]), f"{s['steps']:,}",
        str(len(curve)), f"{valid.min():.1f}", f"{valid.max():.1f}", f"{valid[-1]:.1f}",
        f"{falls([look['valid_accuracy'] for look in curve]).max():.1f}",
        f"{max(look['residual'] for look in late):.2f}",
        f"{run['value']:.2f} +- {run['ci95']:.2f}", f"{run['seconds'] / 60:.0f}",
    ]  # fmt: skip


def falls(values: list[float]) -> np.ndarray[Any, Any]:
    """How far each is below the highest up to then."""
    return np.asarray(np.maximum.accumulate(values) - values)
