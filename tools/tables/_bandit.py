"""The tables of the bandit: every game that was played, and the grid of the baseline."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._runs import Run, Table, runs_of


def games(results: dict[str, Any]) -> Table:
    """Of each method: its regret after so many trials on each delta, with both spreads."""
    first: Run = next(iter(results["runs"]), {"by_delta": {}})
    columns = ("method", "trials", *first["by_delta"], "meta-steps", "seeds")
    rows = []
    for method in results["methods"]:
        of = runs_of(results, method)
        rows += [_row(f"`{method}`", trials, of) for trials in of[0]["games"]]
    return columns, rows


def _row(name: str, trials: str, of: list[Run]) -> list[str]:
    each = np.array([run["games"][trials] for run in of])  # (seeds, deltas, games)
    cells = [_cell(each[:, i]) for i in range(each.shape[1])]
    steps = of[0]["meta_steps"]
    return [name, f"{int(trials):,}", *cells, f"{steps:,}" if steps else "", str(len(of))]


def _cell(each: np.ndarray) -> str:
    """The mean of (seeds, games), and standard deviations over seeds and over games."""
    spread = lambda means: f"{means.std(ddof=1):.1f}" if len(means) > 1 else "-"
    return f"{each.mean():.1f} ({spread(each.mean(axis=1))}; {spread(each.mean(axis=0))})"


def players(results: dict[str, Any]) -> Table:
    """Every setting of the meta-learned that was tried, the best of each first."""
    deltas = results["played"]["deltas"]
    names = ("steps", "batch", "updates", "damping")
    columns = (
        "method",
        "meta-steps",
        *(f"`{name}`" for name in names[1:]),
        *map(str, deltas),
        "mean",
    )
    ordered = sorted(results["rows"], key=lambda row: row["method"])
    rows = [
        [f"`{row['method']}`", f"{row['steps']:,}", *(f"`{row[name]}`" for name in names[1:])]
        + [f"{x:.1f}" for x in (*row["by_delta"], row["value"])]
        for row in ordered
    ]
    return columns, rows


def grid(results: dict[str, Any]) -> Table:
    """Every setting of the baseline that was tried, the best first."""
    deltas = results["played"]["deltas"]
    columns = ("`b`", "`pull`", "`rate`", *map(str, deltas), "mean")
    rows = [
        [f"`{x}`" for x in (row["noise"][1], row["pull"], row["rate"])]
        + [f"{x:.1f}" for x in (*row["by_delta"], row["value"])]
        for row in results["rows"]
    ]
    return columns, rows
