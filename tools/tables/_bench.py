"""Tables of `python -m benchmarks`: one of those of a part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks._measure import Measurement
from benchmarks._report import Grid, grid

# The names of tables, and the part and title of each.
TITLES = {
    "overhead": ("overhead", "Overhead of the rule"),
    "speed-sine": ("sine", "A meta-gradient of 25 sines, 100 inner steps"),
    "speed-conv4": ("conv4", "Conv4, an inner step of a task"),
    "growth-memory-steps": ("growth", "KiB of intermediate results by inner steps"),
    "growth-time-steps": ("growth", "ms by inner steps"),
    "growth-memory-tasks": ("growth", "KiB of intermediate results by tasks"),
    "growth-time-tasks": ("growth", "ms by tasks"),
    "growth-memory-weights": ("growth", "KiB of intermediate results by weights"),
    "growth-time-weights": ("growth", "ms by weights"),
    "accuracy-digits": ("accuracy", "Time to an accuracy, digits"),
    "accuracy-network": ("accuracy", "Time to an accuracy, network"),
}


def table(facts: Mapping[str, Any], title: str) -> Grid:
    """Columns and rows."""
    return grid(Measurement(**row) for row in facts["tables"][title])
