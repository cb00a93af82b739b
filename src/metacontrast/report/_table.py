"""What was measured, beside what was published."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from ..tasks._untrusted import plain
from ..train import half_width
from ._collect import Result, find_results

COLUMNS = ("method", "ours, mean over seeds", "spread over tasks", "published")
NUMBERS = ("seeds", "meta-steps", "seconds a seed")
EXPLAINED = (
    "Ours: mean over seeds +- half the 95% interval (over seeds, by Student's t; with one seed "
    "over\nits tasks). Spread: standard deviation over tasks. Tasks that diverged are "
    "left\nout; where they are more than half, there is no value."
)


def print_report(runs: str | Path) -> None:
    """Print a table for each experiment that has a result.json below the folder `runs`.

    Its rows are those that the results name, also where they were not run. A result is read as
    `summarise` and `write_result` make it, with a further field `rows`, the published figure of
    each row of the table.

    Raises:
        FileNotFoundError: there is no result.
    """
    for name, results in find_results(runs).items():
        _print_table(f"{name}: {results[0]['metric']}", results)
    print(EXPLAINED)


def _print_table(title: str, results: list[Result]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Text: no name in a file is to be read as markup, or to steer the terminal.
    sheet = Table(title=Text(plain(title), "table.title"), title_justify="left")
    for column in COLUMNS:
        sheet.add_column(column)
    for column in NUMBERS:
        sheet.add_column(column, justify="right")
    for row in table_rows(results):
        sheet.add_row(*[Text(plain(cell)) for cell in row])
    Console(width=120).print(sheet)


def table_rows(results: list[Result]) -> list[tuple[str, ...]]:
    """Of each method that the results name, its name and what stands behind it in the table."""
    rows: dict[str, str] = {}
    for result in results:
        rows |= result.get("rows", {}) | {result["method"]: result["reference"] or ""}
    own = lambda method: [result for result in results if result["method"] == method]
    return [(method, *_cells(own(method), published)) for method, published in rows.items()]


def _cells(results: list[Result], published: str) -> tuple[str, ...]:
    """What stands behind the name of a method."""
    if not results:
        return "not run", "", published, "0", "", ""
    spreads = [result["std"] for result in results if result["std"] is not None]
    return (
        _mean_of_seeds(results) + _left_out(results),
        f"{math.sqrt(np.mean(np.square(spreads))):.3f}" if spreads else "",
        published,
        str(len(results)),
        _range([result["meta_steps"] for result in results]),
        _range([round(result["seconds"]) for result in results]),
    )


def _mean_of_seeds(results: list[Result]) -> str:
    """With half the interval, if there is one; of seeds without a value half at most are left out.

    A seed has none if most of its tasks diverged.
    """
    means = np.array([result["value"] for result in results if result["value"] is not None])
    if 2 * len(means) < len(results):
        return "no value"
    half = half_width(means) if len(means) > 1 else None
    if len(results) == 1:
        half = results[0]["ci95"]
    return f"{means.mean():.4f}" + ("" if half is None else f" +- {half:.4f}")


def _left_out(results: list[Result]) -> str:
    tasks = sum(result["diverged"] for result in results)
    seeds = sum(result["value"] is None for result in results)
    if not tasks:
        return ""
    return f" ({tasks} tasks" + (f", {seeds} seeds" if seeds else "") + " diverged)"


def _range(numbers: list[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low}-{high}"
