"""A table for spreadsheets and `pandas.read_csv`."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from ..train._folder import write_atomically

Row = Mapping[str, Any]


class CSV:
    """A callback that writes a row a look, with a header, into one file.

    Args:
        path: of the file; with what a run before a resume wrote, it goes on there.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     table = CSV(folder + "/metrics.csv")
        ...     table.log(10, {"meta_loss": 0.5})
        ...     print(Path(folder, "metrics.csv").read_text(), end="")
        step,meta_loss
        10,0.5
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._columns: list[str] = []  # once this has written the file

    def last_step(self) -> int:
        """The step of the last row; 0 without any."""
        _, rows = self._read()
        return int(rows[-1]["step"]) if rows else 0

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write a row."""
        row = {"step": step, **values}
        if not row.keys() <= set(self._columns):
            columns, rows = self._read()
            self._columns = list(dict.fromkeys([*columns, *row]))
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, self._text(rows, True))
        with self._path.open("a", encoding="utf-8", newline="") as file:
            file.write(self._text([row], False))

    def close(self) -> None:
        """Nothing is open between two rows."""

    def _read(self) -> tuple[list[str], list[Row]]:
        """Columns and rows that are there, but for a last one that was torn by a crash."""
        if not self._path.is_file():
            return [], []
        text = self._path.read_text(encoding="utf-8")
        reader = csv.DictReader(text[: text.rfind("\n") + 1].splitlines(), restval="")
        rows: list[Row] = list(reader)
        return list(reader.fieldnames or []), rows

    def _text(self, rows: list[Row], with_header: bool) -> str:
        text = StringIO()
        writer = csv.DictWriter(text, self._columns, restval="", lineterminator="\n")
        if with_header:
            writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()
