"""Runs of an experiment, as `metacontrast report RUNS --collect` keeps them, and their tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from metacontrast.train import half_width

Run: TypeAlias = dict[str, Any]
Table: TypeAlias = tuple[Sequence[str], list[list[str]]]


def runs_of(results: dict[str, Any], method: str) -> list[Run]:
    """Those of a method, one a seed."""
    return [run for run in results["runs"] if run["method"] == method]


def by_method(results: dict[str, Any]) -> dict[str, list[Run]]:
    """All of them, in the order of the methods."""
    return {name: runs_of(results, name) for name in results["methods"]}


def each(runs: list[Run], field: str) -> list[float]:
    """A number of every run."""
    return [run[field] for run in runs]


def above(runs: list[Run], others: list[Run], field: str = "value") -> list[float]:
    """By how much a number is above that of other runs, in pairs of one seed."""
    there = {tuple(run["seeds"]): run[field] for run in others}
    pairs = [(run[field], there.get(tuple(run["seeds"]))) for run in runs]
    return [here - other for here, other in pairs if other is not None]


def listed(values: ArrayLike, places: int) -> str:
    """One by one."""
    return ", ".join(f"{x:.{places}f}" for x in np.asarray(values))


def mean(values: ArrayLike, places: int) -> str:
    """With half the 95% interval over seeds, where there are several."""
    several = np.asarray(values)
    half = f" +- {half_width(several):.{places}f}" if several.size > 1 else ""
    return f"{several.mean():.{places}f}{half}"
