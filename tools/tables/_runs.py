"""Runs of an experiment, as `metacontrast report RUNS --collect` keeps them, and their tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

Run: TypeAlias = dict[str, Any]
Table: TypeAlias = tuple[Sequence[str], list[list[str]]]


def runs_of(results: dict[str, Any], method: str) -> list[Run]:
    """Those of a method, one a seed."""
    return [run for run in results["runs"] if run["method"] == method]
