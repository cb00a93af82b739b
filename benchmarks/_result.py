"""What a part of the benchmarks results in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from ._measure import Measurement

Progress = Callable[[str], None]  # is handed what is being done
NO_NOTES: Mapping[str, str] = MappingProxyType({})


class Plot(NamedTuple):
    """What `report.figure` is to draw."""

    draw: Callable[[Any], None]
    rows: int
    columns: int


class PartResult(NamedTuple):
    """Measurements by the title of their table, notes by what they are about, perhaps a plot.

    `points` are what the plot shows beside the tables.
    """

    tables: dict[str, list[Measurement]]
    notes: Mapping[str, str] = NO_NOTES
    plot: Plot | None = None
    points: Sequence[Mapping[str, Any]] = ()
