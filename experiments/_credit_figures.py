"""What is shown of all credit rules: a figure, and a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from metacontrast.report import look

SHORT_NAMES = {
    "backprop": "backprop",
    "equilibrium-propagation": "equilibrium\npropagation",
    "equilibrium-propagation-far": "the same,\n$\\gamma$ = 1",
    "predictive-coding": "predictive\ncoding",
    "predictive-coding-far": "the same,\nnudge = 1",
    "node-perturbation": "node\nperturbation",
    "feedback-alignment": "feedback\nalignment",
    "direct-feedback-alignment": "direct feedback\nalignment",
}
SIZE = (3.4, 4.4)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The error of each run, and the mean cosines of each method at the first and last theta."""
    own, exact = "rule, own exact", "meta, exact"
    lines = [
        f"{'':29}{'':27}{'rule, backprop':>16}{own:>17}{exact:>15}",
        f"{'method':29}{'error of each seed':27}" + "    first   last" * 3,
    ]
    for name in SHORT_NAMES:
        of = [row for row in rows if row["method"] == name]
        if of:
            errors = ", ".join(_shown(error, 4) for error in _numbers(of, "value"))
            lines.append(f"{name:29}{errors:27}{_cosines_shown(of)}")
    return "\n".join(lines)


def _cosines_shown(of: Sequence[Mapping[str, Any]]) -> str:
    keys = [f"cosine_{x}{when}" for x in ("backprop_", "own_", "") for when in ("first", "last")]
    cells = [_shown(np.mean(_numbers(of, key)), 2) for key in keys]
    return "".join(f"{cell:>{width}}" for cell, width in zip(cells, [9, 7] * 3, strict=True))


def _shown(x: float, digits: int) -> str:
    return "-" if np.isnan(x) else f"{x:.{digits}f}"


def _numbers(rows: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    """Of each row; NaN where it has none, or none that is finite."""
    return np.array([row.get(key) for row in rows], float)


def draw(rows: Sequence[Mapping[str, Any]], axes: Any) -> None:
    """A bar is the mean over seeds, a dot is one of them."""
    error, cosine, curves = axes.flat
    for i, name in enumerate(SHORT_NAMES):
        own, color = [row for row in rows if row["method"] == name], look(name).color
        if not own:
            continue
        _bar(error, i, 0.7, _numbers(own, "value"), color)
        _bar(cosine, i - 0.2, 0.35, _numbers(own, "cosine_first"), "0.75")
        _bar(cosine, i + 0.2, 0.35, _numbers(own, "cosine_last"), color)
        shortest = min(len(row["curve"]) for row in own)
        curve = np.mean(np.array([row["curve"][:shortest] for row in own], float), axis=0)
        label = f"{name.replace('-', ' ')}, {len(own)} seed{'s' if len(own) > 1 else ''}"
        curves.plot(*curve.T, **look(name).line(label=label))
    error.set_yticks(range(len(SHORT_NAMES)), list(SHORT_NAMES.values()))
    cosine.set_yticks([])
    for ax in (error, cosine):
        ax.invert_yaxis()
    error.set(xscale="log", xlabel="squared error, test tasks")
    error.set_xticks(ticks := [0.05, 0.1, 0.2, 0.5, 1.0], [f"{x:g}" for x in ticks])
    error.xaxis.set_minor_formatter(lambda *_: "")
    cosine.set(xlabel="cosine with the exact gradient,\nat first (grey) and meta-trained")
    curves.set(yscale="log", xlabel="meta-step", ylabel="squared error, validation")
    handles, labels = curves.get_legend_handles_labels()
    curves.figure.legend(handles, labels, loc="outside lower center", ncols=3)


def _bar(ax: Any, y: float, width: float, values: np.ndarray, color: str) -> None:
    ax.barh(y, np.mean(values), width, color=color, alpha=0.6)
    ax.plot(values, np.full(len(values), y), "k.", ms=4)
