"""Tables of benchmarks: on the terminal, and in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from ._measure import Measurement

Grid = tuple[list[str], list[list[str]]]


def grid(measurements: Iterable[Measurement]) -> Grid:
    """Headings, and a row of cells a subject; both in the order in which they first appear.

    Example:
        >>> grid([Measurement("ours", "ms", 2.0, 1.9, 2.25), Measurement("theirs", "s", 31.4)])
        (['', 'ms', 's'], [['ours', '2.00 (1.90-2.25)', ''], ['theirs', '', '31.4']])
    """
    measurements = list(measurements)
    cells = {(m.subject, m.quantity): _cell(m) for m in measurements}
    columns = list(dict.fromkeys(m.quantity for m in measurements))
    rows = dict.fromkeys(m.subject for m in measurements)
    return ["", *columns], [[row, *(cells.get((row, c), "") for c in columns)] for row in rows]


def print_tables(facts: Mapping[str, Any]) -> None:
    """Print the tables and the notes of one part's JSON."""
    for title, measurements in facts["tables"].items():
        columns, rows = grid(Measurement(**fields) for fields in measurements)
        sheet = Table(title=title, title_justify="left")
        for column in columns:
            sheet.add_column(column, justify="right" if column else "left")
        for row in rows:
            sheet.add_row(*row)
        Console(width=140).print(sheet)
    for about, note in facts["notes"].items():
        print(f"{about}: {note}.")


def markdown(facts: Mapping[str, Any]) -> str:
    """The same in Markdown, with what was run, where and when."""
    lines = []
    for title, measurements in facts["tables"].items():
        columns, rows = grid(Measurement(**fields) for fields in measurements)
        lines += [f"**{title}**", "", _row(columns), _row(["---"] * len(columns))]
        lines += [*map(_row, rows), ""]
    lines += [f"- {about}: {note}." for about, note in facts["notes"].items()]
    return "\n".join([*lines, caption(facts)]) + "\n"


def caption(facts: Mapping[str, Any]) -> str:
    """What was run, where and when."""
    machine = facts["machine"]
    return (
        f"*`python -m benchmarks {facts['part']}{' --quick' * facts['quick']}`, "
        f"{facts['seconds']:.0f} s, {machine['cores']} cores, {machine['processor']}, "
        f"load {machine['load']} at the start, jax {facts['versions']['jax']}.*"
    )


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(m: Measurement) -> str:
    value = number(m.value)
    return (
        value if m.low is None or m.high is None else f"{value} ({number(m.low)}-{number(m.high)})"
    )


def number(x: float) -> str:
    """Three significant digits.

    Example:
        >>> [number(x) for x in (0.01234, 1.0, 12.34, 1234.5, 1234567.0)]
        ['0.0123', '1.00', '12.3', '1,234', '1,234,567']
    """
    if abs(x) >= 100:
        return f"{x:,.0f}"
    return f"{x:.3g}" if abs(x) < 1 else f"{x:.{2 - (abs(x) >= 10)}f}"
