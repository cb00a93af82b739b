"""What a part of the benchmarks finds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from ._measure import Figure

Tell = Callable[[str], None]  # says what is being done
NONE: Mapping[str, str] = MappingProxyType({})


class Drawing(NamedTuple):
    """What `report.figure` is to draw."""

    draw: Callable[[Any], None]
    rows: int
    columns: int


class Found(NamedTuple):
    """Figures by the title of their table; notes by what they are about; and perhaps a drawing."""

    tables: dict[str, list[Figure]]
    notes: Mapping[str, str] = NONE
    drawing: Drawing | None = None
