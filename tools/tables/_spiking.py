"""The tables of the spiking network: errors by seed, and which of its matrices learn a task."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._runs import Run, Table, by_method, each


def errors(results: dict[str, Any]) -> Table:
    """Of each method and seed the test error, the lowest first."""
    of = by_method(results)
    seeds = sorted({seed for run in results["runs"] for seed in run["seeds"]})
    # NaN, of a run that diverged, is above all.
    means = {name: np.mean(np.array(each(runs, "value"), float)) for name, runs in of.items()}
    order = sorted(of, key=lambda name: np.nan_to_num(means[name], nan=np.inf))
    rows = []
    for name in order:
        by_seed = {run["seeds"][0]: _error(run) for run in of[name]}
        rows.append([f"`{name}`", *(by_seed.get(seed, "") for seed in seeds)])
    return ("method", *(f"seed {seed}" for seed in seeds)), rows


def fast(results: dict[str, Any]) -> Table:
    """Of each run: the test error, and validation errors where some matrices alone are fast."""
    first: Run = next(iter(results["runs"]), {"fast": {}})
    columns = ("method", "seed", "meta-steps", "test error", *map(_named, first["fast"]))
    rows = [
        [f"`{run['method']}`", str(run["seeds"][0]), f"{run['meta_steps']:,}", _error(run)]
        + [f"{x:.3f}" for x in run["fast"].values()]
        for run in results["runs"]
    ]
    return columns, rows


def _named(part: str) -> str:
    return part if part in ("all", "none") else f"{part} alone"


def _error(run: Run) -> str:
    return "diverged" if run["value"] is None else f"{run['value']:.4f} +- {run['ci95']:.4f}"
