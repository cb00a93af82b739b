"""Omniglot in the published protocol: its inner steps and images, fewer filters and tasks."""

from __future__ import annotations

from typing import Any

from ._runs import Run, Table, each, mean, runs_of

COLUMNS = (
    "method", "accuracy", "std over tasks", "talk", "inner steps", "tasks a meta-step",
    "meta-steps", "filters", "minutes",
)  # fmt: skip


def table(results: dict[str, Any]) -> Table:
    """A row a method and kind of task, all seeds of it together."""
    return COLUMNS, [_row(name, results) for name in results["methods"]]


def _row(name: str, results: dict[str, Any]) -> list[str]:
    kind, method, split = name.split()
    runs, about = runs_of(results, name), results["methods"][name]
    s = about["settings"]
    return [
        f"`{method}`, {kind}, {split}", accuracy(runs), f"{max(each(runs, 'std')):.1f}",
        about["published"], str(s["inner_steps"]), f"{s['tasks']}, {s['queries']} queries a class",
        f"{s['steps']:,}", str(s["filters"][-1]), f"{max(each(runs, 'seconds')) / 60:.0f}",
    ]  # fmt: skip


def accuracy(runs: list[Run]) -> str:
    """Over seeds; of one seed with half the interval over its test tasks."""
    if len(runs) == 1:
        return f"{runs[0]['value']:.2f} +- {runs[0]['ci95']:.2f} (one seed, over tasks)"
    return mean(each(runs, "value"), 2)
