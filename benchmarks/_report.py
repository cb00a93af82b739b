"""Tables of benchmarks: on the terminal, and in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from ._measure import Figure

Grid = tuple[list[str], list[list[str]]]


def grid(figures: Iterable[Figure]) -> Grid:
    """Headings, and a row of cells a subject; both in the order in which they first appear.

    Example:
        >>> grid([Figure("ours", "ms", 2.0, 1.9, 2.25), Figure("theirs", "s", 31.4)])
        (['', 'ms', 's'], [['ours', '2.00 (1.90-2.25)', ''], ['theirs', '', '31.4']])
    """
    figures = list(figures)
    cells = {(f.subject, f.quantity): _cell(f) for f in figures}
    columns = list(dict.fromkeys(f.quantity for f in figures))
    rows = dict.fromkeys(f.subject for f in figures)
    return ["", *columns], [[row, *(cells.get((row, c), "") for c in columns)] for row in rows]


def print_tables(found: Mapping[str, Any]) -> None:
    """Print the tables and the notes of one part's JSON."""
    for title, figures in found["tables"].items():
        columns, rows = grid(Figure(**figure) for figure in figures)
        sheet = Table(title=title, title_justify="left")
        for column in columns:
            sheet.add_column(column, justify="right" if column else "left")
        for row in rows:
            sheet.add_row(*row)
        Console(width=140).print(sheet)
    for about, note in found["notes"].items():
        print(f"{about}: {note}.")


def markdown(found: Mapping[str, Any]) -> str:
    """The same in Markdown, with what was run, where and when."""
    machine, lines = found["machine"], []
    for title, figures in found["tables"].items():
        columns, rows = grid(Figure(**figure) for figure in figures)
        lines += [f"**{title}**", "", _row(columns), _row(["---"] * len(columns))]
        lines += [*map(_row, rows), ""]
    lines += [f"- {about}: {note}." for about, note in found["notes"].items()]
    lines += [f"*`metacontrast bench {found['part']}{' --quick' * found['quick']}`, "]
    lines[-1] += f"{found['seconds']:.0f} s, {machine['cores']} cores, {machine['processor']}, "
    lines[-1] += f"load {machine['load']} at the start, jax {found['versions']['jax']}.*"
    return "\n".join(lines) + "\n"


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(figure: Figure) -> str:
    value = number(figure.value)
    if figure.low is None or figure.high is None:
        return value
    return f"{value} ({number(figure.low)}-{number(figure.high)})"


def number(x: float) -> str:
    """Three digits that mean something.

    Example:
        >>> [number(x) for x in (0.01234, 1.0, 12.34, 1234.5, 1234567.0)]
        ['0.0123', '1.00', '12.3', '1,234', '1,234,567']
    """
    if abs(x) >= 100:
        return f"{x:,.0f}"
    return f"{x:.3g}" if abs(x) < 1 else f"{x:.{2 - (abs(x) >= 10)}f}"
