"""The table of the learned regularisers on CIFAR-10."""

from __future__ import annotations

from typing import Any

import numpy as np

from metacontrast.train import half_width

from ._sine import Run, Table

# The field of a run, and what its column says.
JUDGED = {
    "value": "same start and batches",
    "new_accuracy": "new start and batches",
    "both_accuracy": "validation images learned from too",
}


def table(results: dict[str, Any]) -> Table:
    """Test accuracy three times, and what of the images that were seen is right."""
    columns = (
        "method", "meta-steps", *JUDGED.values(), "same, each seed", "validation images",
        "images learned from",
    )  # fmt: skip
    of = {name: [r for r in results["runs"] if r["method"] == name] for name in results["methods"]}
    # The highest on a new start first, which is the claim.
    order = sorted(of, key=lambda name: -np.mean(_each(of[name], "new_accuracy")))
    return columns, [_row(name, of[name]) for name in order]


def _row(name: str, runs: list[Run]) -> list[str]:
    each = ", ".join(f"{x:.2f}" for x in _each(runs, "value"))
    means = [f"{np.mean(_each(runs, f'{part}_accuracy')):.1f}" for part in ("valid", "learned")]
    judged = [_mean(_each(runs, field)) for field in JUDGED]
    first = f"`{name}`{_number(name, runs)}", str(runs[0]["meta_steps"] or "")
    return [*first, *judged, each, *means]


def _each(runs: list[Run], field: str) -> list[float]:
    return [run[field] for run in runs]


def _mean(values: list[float]) -> str:
    """With half the 95% interval over seeds."""
    if len(values) == 1:
        return f"{values[0]:.2f} (one seed)"
    return f"{np.mean(values):.2f} +- {half_width(np.array(values)):.2f}"


def _number(name: str, runs: list[Run]) -> str:
    """The numbers that a grid chose, one a seed."""
    if name != "grid":
        return ""
    chosen = [10 ** next(iter(run["log10_lambda"].values()))[1] for run in runs]
    return f" (best numbers: {', '.join(f'{x:.2g}' for x in chosen)})"
