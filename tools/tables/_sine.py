"""The tables of the sine experiment."""

from __future__ import annotations

import math
from statistics import median
from typing import Any

import numpy as np

from metacontrast.train import half_width

from ._runs import Run, Table, runs_of

TUNED = "-tuned"
# Of each row: what it is, the method in the published protocol, ours, and what differs in ours. In
# between stands the published one with tuned rates, where there is one.
ROWS = (
    (
        "contrastive rule, all points a step", "paper-gd", "cml-gd",
        "tanh; lambda learned, one a weight; momentum; beta 0.05, symmetric; a falling outer rate",
    ),
    (
        "contrastive rule, mini-batches", "paper-sgd", "cml-sgd",
        "the same, on 8 of the 10 points a step",
    ),
    (
        "contrastive rule, another learner", "", "cml-gn",
        "tanh; lambda learned; Gauss-Newton; beta 0.05, forward; 1,500 meta-steps",
    ),
    (
        "contrastive rule, modulation", "", "cml-mod",
        "a slow network; fast gains, shifts and head, by Gauss-Newton; 400 meta-steps",
    ),
    ("MAML", "paper-maml", "maml", "tanh; inner rate 3e-3; 10,000 meta-steps, a falling rate"),
    ("MAML, first-order", "", "fomaml", "the same"),
    ("from scratch", "paper-scratch", "scratch", "tanh"),
)  # fmt: skip


def beside_the_talk(results: dict[str, Any]) -> Table:
    """The talk's figure, ours in the nearest published protocol, ours at its best."""
    columns = (
        "", "Sacramento's talk", "published protocol", "its rates tuned", "at its best",
        "what differs there",
    )  # fmt: skip
    rows = [
        [name, _talk(results, paper)]
        + [_ours(results, of) for of in (paper, _tuned(results, paper), best)]
        + [differs]
        for name, paper, best, differs in ROWS
    ]
    return columns, rows


def _tuned(results: dict[str, Any], paper: str) -> str:
    """The same method with tuned rates; empty where none was run."""
    name = f"{paper}{TUNED}"
    return name if runs_of(results, name) else ""


def _talk(results: dict[str, Any], method: str) -> str:
    return results["methods"][method]["published"] if method else ""


def _ours(results: dict[str, Any], method: str) -> str:
    """What the last thetas came to; in the published protocol also those best on validation."""
    of = runs_of(results, method)
    if not of:
        return f"`{method}`: not run anew" if method else ""
    best = _of_best(of) if method.startswith("paper") else []
    of_best = f"; best on validation {summary(best)}" if best else ""
    return f"`{method}`: {summary(values(of))}{of_best}"


def runs(results: dict[str, Any]) -> Table:
    """Every method: its seeds, what they came to, what it took and what was flagged."""
    columns = (
        "method", "seeds", "mean", "median (range)", "std over tasks", "best on validation",
        "inner steps", "meta-steps", "flagged",
    )  # fmt: skip
    _, published, ours, _ = zip(*ROWS, strict=True)
    tuned = [f"{name}{TUNED}" for name in published]
    several = *published, *tuned, *ours, "cml-gd-suggested"
    names = [name for name in several if runs_of(results, name)]
    return columns, [_row(name, results) for name in names]


def _row(name: str, results: dict[str, Any]) -> list[str]:
    of, settings = runs_of(results, name), results["methods"][name]["settings"]
    is_contrastive = name.startswith(("cml", "paper-gd", "paper-sgd"))
    phases = 2 if name.startswith(("cml-gd", "cml-sgd")) else 1
    nudged = f" + {phases} x {settings['nudged']}" if is_contrastive else ""
    low, high = of[0]["seeds"][0], of[-1]["seeds"][0]
    best = _of_best(of)
    return [
        f"`{name}`", f"{low} to {high}", mean(values(of)), middle(values(of)), _spread(of),
        summary(best) if best else "", f"{settings['free']}{nudged}",
        f"{of[0]['meta_steps']:,}", flagged(of),
    ]  # fmt: skip


def tuning(results: dict[str, Any]) -> Table:
    """Every trial of the published methods' rates, the best of each method first."""
    columns = ("method", "`outer-rate`", "falls to", "`rate`", "`beta`", "validation error")
    order = lambda row: (row["method"], row["value"] is None, row["value"])  # what diverged is last
    rows = []
    for row in sorted(results["rows"], key=order):
        beta = f"`{row['beta']:g}`" if row["method"] != "paper-maml" else ""
        value = "diverged" if row["value"] is None else f"{row['value']:.3f}"
        rates = [f"`{row[name]:g}`" for name in ("outer_rate", "last_rate", "rate")]
        rows.append([f"`{row['method']}`", *rates, beta, value])
    return columns, rows


def values(of: list[Run]) -> list[float]:
    """The errors of runs that have one: of half of the tasks or more."""
    return [run["value"] for run in of if run["value"] is not None]


def _of_best(of: list[Run]) -> list[float]:
    """The test errors of the thetas that were best on validation."""
    return [run["best"]["value"] for run in of if run.get("best")]


def summary(values: list[float]) -> str:
    """Mean and interval; or median and range, of many seeds and of those that differ much."""
    return mean(values) if len(values) <= 5 and mean(values) else f"median {middle(values)}"


def mean(values: list[float]) -> str:
    """With half the 95% interval over seeds; empty where that is wider than the mean."""
    if len(values) == 1:
        return f"{_short(values[0])} (one seed)"
    half = half_width(np.array(values))
    return "" if half > np.mean(values) else f"{_short(np.mean(values))} +- {_short(half)}"


def middle(values: list[float]) -> str:
    """The median and the range."""
    return f"{_short(median(values))} ({_short(min(values))} to {_short(max(values))})"


def _short(x: Any) -> str:
    """Four decimals, and fewer of what is large."""
    return f"{x:.4f}" if x < 10 else f"{x:.1f}" if x < 1000 else f"{x:,.0f}"


def _spread(of: list[Run]) -> str:
    return _short(math.sqrt(np.mean([run["std"] ** 2 for run in of])))


def flagged(of: list[Run]) -> str:
    """Of all meta-gradients, the share that raised each flag."""
    names = sorted({name for run in of for name in run["flags"]})
    share = {name: np.mean([run["flags"].get(name, 0.0) for run in of]) for name in names}
    return ", ".join(f"{name} {x:.1%}" for name, x in share.items() if x >= 5e-4)
