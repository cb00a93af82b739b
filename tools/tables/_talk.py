"""Every cell of the tables of the talk: met or missed, and what decides."""

from __future__ import annotations

import re
from statistics import median
from typing import Any, NamedTuple

from . import _omniglot
from ._runs import Table, each, runs_of
from ._sine import TUNED, summary, values

COLUMNS = (
    "cell", "talk", "published protocol", "its rates tuned", "at our best", "what decides",
)  # fmt: skip


class Sine(NamedTuple):
    """A row of the table of sines: the methods in the published protocol and at our best."""

    name: str
    published: str
    best: str
    why: str


class Characters(NamedTuple):
    """A cell of the table of Omniglot, 20 ways, and the method of ours that is set beside it."""

    name: str
    talk: str
    shot: int
    method: str
    why: str


SINES = (
    Sine(
        "contrastive rule, GD", "paper-gd", "cml-gd",
        "rates: the published ones belong to amplitudes a tenth of the talk's",
    ),
    Sine("contrastive rule, SGD", "paper-sgd", "cml-sgd", "the same"),
    Sine("MAML", "paper-maml", "maml", "the same; at our best ten times the meta-steps"),
    Sine("from scratch", "paper-scratch", "scratch", "at our best tanh"),
)  # fmt: skip
HEAD = "another learner: a slow body under a fast head"
NOT_RUN = "hours of a GPU; what is underfed is not tabled"
SMALLER = "fewer filters, tasks and meta-steps, for a core of a CPU"
CHARACTERS = (
    Characters("contrastive rule, all weights", "94.16 +- 0.12", 1, "cml-syn", "a GPU, seed 0"),
    Characters(
        "contrastive rule, all weights", "98.06 +- 0.26", 5, "cml-syn",
        "it collapsed; the cause is mended, and 5-shot was not run since",
    ),
    Characters("contrastive rule", "94.16 +- 0.12", 1, "cml-head", HEAD),
    Characters("contrastive rule", "98.06 +- 0.26", 5, "cml-head", HEAD),
    Characters("its best, Hessian-free implicit MAML", "96.18 +- 0.36", 1, "cml-head", HEAD),
    Characters("its best, Hessian-free implicit MAML", "99.14 +- 0.10", 5, "cml-head", HEAD),
    Characters("MAML", "95.8 +- 0.3", 1, "maml", NOT_RUN),
    Characters("MAML", "98.9 +- 0.2", 5, "maml", NOT_RUN),
    Characters("MAML, first-order", "89.4 +- 0.5", 1, "fomaml", NOT_RUN),
    Characters("MAML, first-order", "97.9 +- 0.1", 5, "fomaml", NOT_RUN),
    Characters("Reptile", "89.43 +- 0.14", 1, "reptile", NOT_RUN),
    Characters("Reptile", "97.12 +- 0.32", 5, "reptile", NOT_RUN),
    Characters("implicit MAML, GD", "94.46 +- 0.42", 1, "imaml-cg", NOT_RUN),
    Characters("implicit MAML, GD", "98.69 +- 0.10", 5, "imaml-cg", NOT_RUN),
)  # fmt: skip


def table(sine: dict[str, Any], best: dict[str, Any], published: dict[str, Any]) -> Table:
    """A row a cell: errors of sines, accuracies of 20-way Omniglot in percent.

    Args:
        sine: runs of sines.
        best: the table of Omniglot at our best.
        published: runs of Omniglot in the published protocol.
    """
    rows = [_sine(sine, row) for row in SINES]
    return COLUMNS, [*rows, *(_characters(best, published, row) for row in CHARACTERS)]


def _sine(results: dict[str, Any], row: Sine) -> list[str]:
    talk = results["methods"][row.published]["published"]
    methods = row.published, f"{row.published}{TUNED}", row.best
    return [f"sines: {row.name}", talk, *(_error(results, m, talk) for m in methods), row.why]


def _error(results: dict[str, Any], method: str, talk: str) -> str:
    """Of the last thetas; their median over seeds is judged."""
    errors = values(runs_of(results, method))
    return f"{summary(errors)}: {verdict(-median(errors), talk, -1)}" if errors else ""


def _characters(best: dict[str, Any], published: dict[str, Any], row: Characters) -> list[str]:
    (cells,) = (cells for cells in best["rows"] if cells[0] == f"`{row.method}`")
    ours = cells[1 if row.shot == 1 else 2]
    found = re.search(r"\d+\.\d+", ours)
    judged = f": {verdict(float(found[0]), row.talk)}" if found else ""
    runs = runs_of(published, f"20w{row.shot}s {row.method} vinyals")
    like, why = "", row.why
    if runs:
        like = f"{_omniglot.accuracy(runs)}: {verdict(median(each(runs, 'value')), row.talk)}"
        why = SMALLER
    name = f"Omniglot, {row.shot}-shot: {row.name}"
    return [name, row.talk, like, "", f"`{row.method}`: {ours}{judged}", why]


def verdict(ours: float, talk: str, sign: int = 1) -> str:
    """Of a figure that should be high; of one that should be low, both are handed over negative."""
    figure, half = map(float, talk.split(" +- "))
    if ours >= sign * figure:
        return "met"
    return "within its +-" if ours >= sign * figure - half else "**missed**"
