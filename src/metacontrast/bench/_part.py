"""What a part of the benchmarks finds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ._measure import Figure

Tell = Callable[[str], None]  # says what is being done


class Found(NamedTuple):
    """The figures of a part; notes by what they are about; and `(draw, rows, columns)` to draw."""

    figures: list[Figure]
    notes: dict[str, str] = {}  # noqa: RUF012 (never changed)
    drawing: tuple[Callable[[Any], None], int, int] | None = None
