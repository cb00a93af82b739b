"""Every cell of the tables of the talk, and of the aims beside them: met or missed, and why."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from ._runs import Table, each, runs_of
from ._sine import TUNED, summary

COLUMNS = (
    "cell", "talk", "published protocol", "its rates tuned", "at our best", "what decides",
)  # fmt: skip


class Sine(NamedTuple):
    """A row of the talk's table of sines; of each column the method that fills it."""

    name: str
    talk: float
    published: str
    best: str
    why: str


class Characters(NamedTuple):
    """A cell of the talk's table of Omniglot, 20 ways; the method of ours that is nearest."""

    name: str
    talk: float
    shot: int
    method: str
    why: str


SINES = (
    Sine(
        "sines, contrastive rule, GD", 0.305, "paper-gd", "cml-gd",
        "the published rates belong to amplitudes a tenth of the talk's",
    ),
    Sine(
        "sines, contrastive rule, SGD", 0.258, "paper-sgd", "cml-sgd",
        "the same",
    ),
    Sine(
        "sines, MAML", 0.435, "paper-maml", "maml",
        "the same; at our best ten times the meta-steps",
    ),
    Sine("sines, from scratch", 1.999, "paper-scratch", "scratch", ""),
)  # fmt: skip
NO_GPU = "64 filters, 16 tasks and 60,000 meta-steps are days of a CPU"
CHARACTERS = (
    Characters("Omniglot 1-shot, contrastive rule, `cml-syn`", 94.16, 1, "`cml-syn`", ""),
    Characters("Omniglot 5-shot, contrastive rule, `cml-syn`", 98.06, 5, "`cml-syn`",
        "collapsed; what caused it is mended, and 5-shot was not run again"),
    Characters("Omniglot 1-shot, contrastive rule, `cml-head`", 94.16, 1, "`cml-head`",
        "another learner: a slow body under a fast head"),
    Characters("Omniglot 5-shot, contrastive rule, `cml-head`", 98.06, 5, "`cml-head`",
        "the same"),
    *(
        Characters(f"Omniglot {shot}-shot, {name}", talk, shot, method, NO_GPU)
        for name, method, *talks in (
            ("MAML", "`maml`", 95.8, 98.9),
            ("first-order MAML", "`fomaml`", 89.4, 97.9),
            ("Reptile", "`reptile`", 89.43, 97.12),
            ("implicit MAML, GD", "`imaml-cg`", 94.46, 98.69),
        )
        for shot, talk in zip((1, 5), talks, strict=True)
    ),
)  # fmt: skip


def table(sine: dict[str, Any], characters: dict[str, Any]) -> Table:
    """A row a cell: errors of sines, accuracies of 20-way Omniglot in percent."""
    rows = [_sine(sine, row) for row in SINES]
    return COLUMNS, [*rows, *(_characters(characters, row) for row in CHARACTERS)]


def _sine(results: dict[str, Any], row: Sine) -> list[str]:
    methods = row.published, f"{row.published}{TUNED}", row.best
    ours = [_error(results, name, row.talk) for name in methods]
    return [row.name, f"{row.talk:.3f}", *ours, row.why]


def _error(results: dict[str, Any], method: str, talk: float) -> str:
    """Of the last thetas."""
    values = each(runs_of(results, method), "value")
    if not values:
        return ""
    below = sum(value <= talk for value in values)
    return f"{summary(values)}: {_verdict(2 * below > len(values))}"


def _characters(first_edition: dict[str, Any], row: Characters) -> list[str]:
    (cells,) = (cells for cells in first_edition["rows"] if cells[0] == row.method)
    ours = cells[row.shot // 5 + 1]
    found = re.search(r"\d+\.\d+", ours)
    said = f"{ours}: {_verdict(float(found[0]) >= row.talk)}" if found else ours
    return [row.name, f"{row.talk:g}", "", "", said, row.why]


def _verdict(is_met: bool) -> str:
    return "met" if is_met else "**missed**"
