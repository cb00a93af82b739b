"""The table of the weighed sources of text."""

from __future__ import annotations

from typing import Any

from ._runs import Run, Table, runs_of

SHOWN = 0.02  # the least weight that is told


def table(results: dict[str, Any]) -> Table:
    """Of each method the loss of each seed, the weights that count, and the seconds."""
    seeds = list(dict.fromkeys(seed for run in results["runs"] for seed in run["seeds"]))
    columns = (
        "method", *(f"seed {seed}" for seed in seeds),
        f"weights of at least {SHOWN}, by seed", "s, meta-learning", "s, final model",
    )  # fmt: skip
    return columns, [_row(name, runs_of(results, name)) for name in results["methods"]]


def _row(name: str, runs: list[Run]) -> list[str]:
    losses = [f"{run['value']:.4f} +- {run['ci95']:.4f}" for run in runs]
    given = name in ("uniform", "clean")
    weights = "" if given else "; ".join(map(_weights, runs))
    seconds = [_range([run[key] for run in runs]) for key in ("seconds", "final_seconds")]
    return [f"`{name}`", *losses, weights, *seconds]


def _weights(run: Run) -> str:
    largest = sorted(run["weights"].items(), key=lambda pair: -pair[1])
    return ", ".join(f"{source} {x:.2f}" for source, x in largest if x >= SHOWN)


def _range(seconds: list[float]) -> str:
    low, high = f"{min(seconds):.0f}", f"{max(seconds):.0f}"
    return low if low == high else f"{low} to {high}"
