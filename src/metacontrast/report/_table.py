"""Ours beside the talk's."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from ..train import half_width, read_result

Row = tuple[str, str, str, str, str, str, str]


def print_table(experiment: Any, runs: Path) -> None:
    """Print one row a method of `experiment`, from every result.json below the folder `runs`."""
    results = found(experiment.NAME, runs)
    sheet = Table(title=f"{experiment.NAME}: {experiment.METRIC}", title_justify="left")
    for column in ("method", "ours, mean over seeds", "spread over tasks", "talk's"):
        sheet.add_column(column)
    for column in ("seeds", "meta-steps", "seconds a seed"):
        sheet.add_column(column, justify="right")
    for method, reference in experiment.REFERENCE.items():
        sheet.add_row(*row(method, reference, [r for r in results if r["method"] == method]))
    Console(width=120).print(sheet)
    print(
        "Ours: mean over seeds +- half the 95% interval (over seeds, by Student's t; with one seed "
        "over\nits tasks). Spread: standard deviation over tasks, as the talk's is taken to be."
    )


def found(name: str, runs: Path) -> list[dict[str, Any]]:
    """All results of the experiment below `runs`."""
    results = [read_result(path.parent) for path in sorted(runs.rglob("result.json"))]
    return [result for result in results if result["experiment"] == name]


def row(method: str, reference: str, results: list[dict[str, Any]]) -> Row:
    """The cells of one method."""
    if not results:
        return method, "not run", "", reference, "0", "", ""
    means = np.array([result["value"] for result in results], float)
    half = results[0]["ci95"] or math.nan if len(means) == 1 else half_width(means)
    spreads = [result["std"] for result in results if result["std"] is not None]
    spread = f"{math.sqrt(np.mean(np.square(spreads))):.3f}" if spreads else ""
    diverged = sum(result["diverged"] for result in results)
    left_out = f" ({diverged} tasks diverged)" if diverged else ""
    return (
        method,
        f"{means.mean():.4f} +- {half:.4f}{left_out}",
        spread,
        reference,
        str(len(results)),
        _range([result["meta_steps"] for result in results]),
        _range([round(result["seconds"]) for result in results]),
    )


def _range(numbers: list[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low}-{high}"
