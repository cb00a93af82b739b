"""The table of the spiking network: which of its matrices learn a task."""

from __future__ import annotations

from typing import Any

from ._runs import Run, Table


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
