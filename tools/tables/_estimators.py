"""The table of all estimators at equal wall-clock."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._runs import Table, by_method


def table(results: dict[str, Any]) -> Table:
    """Test error and chosen rate of each seed, the lowest geometric mean first."""
    of = by_method(results)
    seeds = sorted({seed for runs in of.values() for run in runs for seed in run["seeds"]})
    mean = lambda name: np.exp(np.mean([np.log(run["value"] or np.inf) for run in of[name]]))
    columns = ("estimator", "meta-steps", *(f"seed {seed}" for seed in seeds), "geometric mean")
    rows = [
        [f"`{name}`", str(of[name][0]["meta_steps"]), *map(_cell, of[name]), _number(mean(name))]
        for name in sorted(of, key=mean)
    ]
    return columns, rows


def _cell(run: dict[str, Any]) -> str:
    return f"{_number(run['value'])} ({run['outer_rate']:g})"


def _number(x: float | None) -> str:
    """Three decimals, or none of what is large."""
    if x is None or not np.isfinite(x):
        return "diverged"
    return f"{x:.3f}" if x < 10 else f"{x:.0f}"
