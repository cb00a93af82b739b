"""The tables of the theory: exponents measured and expected, and the error bound."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from ._runs import Table


def exponents(whole: dict[str, Any], quick: dict[str, Any]) -> Table:
    """Of each quantity and problem, the lowest and the highest over seeds.

    Args:
        whole: by "problems", the "quantities" of seed 0.
        quick: the runs of other seeds.
    """
    problems = list(whole["problems"])
    quantities = {name: list(of["quantities"]) for name, of in whole["problems"].items()}
    for run in quick["runs"]:
        quantities[run["method"]] += run["quantities"]
    several = [row for name in problems for row in quantities[name]]
    expected = {row["quantity"]: row["expected"] for row in several}
    rows = [
        [quantity, f"{x:.3g}"] + [_between(quantities[name], quantity) for name in problems]
        for quantity, x in expected.items()
    ]
    return ("quantity", "expected", *problems), rows


def _between(rows: Iterable[dict[str, Any]], quantity: str) -> str:
    """Empty where none was measured."""
    found = [row["measured"] for row in rows if row["quantity"] == quantity]
    finite = [x for x in found if x is not None and math.isfinite(x)]
    return " ... ".join(dict.fromkeys(map(_short, (min(finite), max(finite))))) if finite else ""


def _short(x: float) -> str:
    return f"{x:.0e}" if 0 < abs(x) < 0.005 else f"{x:.2f}"


def bounds(results: dict[str, Any]) -> Table:
    """Of each loss, over all seeds: how near to its bound an error comes, and without a term."""
    columns = (
        "loss", "problems", "largest error / bound", "of exact phases", "without `B_out delta'`",
        "problems that exceed that", "direct at phi_0, without it",
    )  # fmt: skip
    return columns, [_row(method, results["runs"]) for method in results["methods"]]


def _row(method: str, runs: list[dict[str, Any]]) -> list[str]:
    of = [run for run in runs if run["method"] == method]
    worst = lambda name: f"{max(run[name] for run in of):.5g}"
    beyond = sum(round(run["beyond_without"] * run["n_tasks"]) for run in of)
    return [
        method.replace("-coupled", ", coupled"), str(sum(run["n_tasks"] for run in of)),
        worst("worst"), worst("worst_exact"), worst("worst_without"), str(beyond),
        worst("worst_at_free"),
    ]  # fmt: skip
