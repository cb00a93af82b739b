"""The figure of the credit experiment: error, cosine, and how meta-learning went."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..train import read_metrics, read_result

_SHORT = {
    "backprop": "backprop",
    "equilibrium-propagation": "equilibrium\npropagation",
    "predictive-coding": "predictive\ncoding",
    "node-perturbation": "node\nperturbation",
    "feedback-alignment": "feedback\nalignment",
    "direct-feedback-alignment": "direct feedback\nalignment",
}


def draw_panels(root: Path, methods: Sequence[str], axes: Any) -> None:
    """Of the seeds found below `root`: a bar is their mean, a dot is one of them."""
    error, cosine, curves = axes.flat
    for i, name in enumerate(methods):
        folders = sorted(path.parent for path in (root / name).glob("seed*/result.json"))
        if not folders:
            continue
        results = [read_result(folder) for folder in folders]
        _bar(error, i, 0.7, [r["value"] for r in results], f"C{i}")
        _bar(cosine, i - 0.2, 0.35, [r["cosine_first"] for r in results], "0.75")
        _bar(cosine, i + 0.2, 0.35, [r["cosine_last"] for r in results], f"C{i}")
        lines = [_curve(folder) for folder in folders]
        n = min(map(len, lines))
        steps, losses = np.mean([line[:n] for line in lines], axis=0).T
        curves.plot(steps, losses, color=f"C{i}", label=_SHORT[name].replace("\n", " "))
    for ax in (error, cosine):
        ax.set_xticks(range(len(methods)), [_SHORT[name] for name in methods], fontsize=7)
        ax.tick_params(axis="x", rotation=90)
    error.set_yscale("log")
    error.set_ylabel("squared error, test tasks")
    cosine.set_ylabel("cosine")
    cosine.set_title(
        "with the exact meta-gradient,\nbefore (grey) and after meta-training", fontsize=8
    )
    curves.set_yscale("log")
    curves.set_xlabel("meta-step")
    curves.set_ylabel("squared error, validation")
    curves.legend(fontsize=6, loc="center right")


def _bar(ax: Any, x: float, width: float, values: list[float], color: str) -> None:
    ax.bar(x, np.mean(values), width, color=color, alpha=0.6)
    ax.plot(np.full(len(values), x), values, "k.", ms=4)


def _curve(folder: Path) -> list[tuple[float, float]]:
    return [(line["step"], line["valid_loss"]) for line in read_metrics(folder)]
