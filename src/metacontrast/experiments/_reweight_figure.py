"""The figure of the reweight experiment: weights over meta-steps, and losses on the target."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..train import read_metrics, read_result


def draw_panels(root: Path, sources: Sequence[str], methods: Sequence[str], axes: Any) -> None:
    """Means over the seeds found below `root`; a band, or a dot, is the range over them."""
    weights, curves, losses = axes.flat
    for i, source in enumerate(sources):
        steps, values = _lines(root / methods[0], f"valid_{source}")
        _band(weights, steps, values, f"C{i}", source)
    weights.axhline(1 / len(sources), color="0.7", lw=0.8, ls=":")
    weights.set(xlabel="meta-step", ylabel="weight of the source", ylim=0)
    weights.set_title(methods[0], fontsize=8)
    weights.legend(fontsize=6)
    for i, name in enumerate(methods):
        results = [read_result(path.parent) for path in _results(root / name)]
        if not results:
            continue
        runs = np.array([result["curve"] for result in results])
        _band(curves, runs[0, :, 0], runs[..., 1], f"C{i}", name)
        tests = [result["value"] for result in results]
        losses.hlines(np.mean(tests), i - 0.3, i + 0.3, color=f"C{i}")
        losses.plot(np.full(len(tests), i), tests, ".", color=f"C{i}")
    curves.set(xlabel="step of the final model", ylabel="loss on the target, validation")
    curves.legend(fontsize=7)
    losses.set_xticks(range(len(methods)), methods)
    losses.set_ylabel("loss on the target, test")


def _results(folder: Path) -> list[Path]:
    return sorted(folder.glob("seed*/result.json"))


def _lines(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Meta-steps (n,) and the values (seeds, n) of one metric."""
    found = [read_metrics(path.parent) for path in _results(folder)]
    n = min(map(len, found), default=0)
    steps = np.array([line["step"] for line in (found[0][:n] if found else [])])
    return steps, np.array([[line[name] for line in lines[:n]] for lines in found])


def _band(ax: Any, x: np.ndarray, rows: np.ndarray, color: str, label: str) -> None:
    if not rows.size:
        return
    ax.plot(x, rows.mean(axis=0), color=color, lw=1.2, label=label)
    ax.fill_between(x, rows.min(axis=0), rows.max(axis=0), color=color, alpha=0.2, lw=0)
