"""The table of the error bound."""

from __future__ import annotations

from typing import Any, TypeAlias

Table: TypeAlias = tuple[tuple[str, ...], list[list[str]]]


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
