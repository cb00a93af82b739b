"""The figures of the theory."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..accuracy import Record
from ._theory_measure import EXPONENTS, Curves
from ._theory_problems import Part

MARKERS = "os^Dv<>pPX*"
TITLES = {"anywhere": "stops anywhere within δ", "descent": "descent"}


def draw_errors(part: Part, every: list[Curves], axes: Any) -> None:
    """Error against beta, a curve for each accuracy of the learner, with the expected slopes."""
    for ax, found in zip(axes.flat, every, strict=True):
        best = int(np.nanargmin(found.errors[-1]))
        for i, (delta, errors) in enumerate(zip(found.delta, found.errors, strict=True)):
            ax.loglog(part.betas, errors, color=f"C{i}", lw=1.2, label=f"δ = {delta:.0e}")
            if found.suggested is not None:
                star = dict(color=f"C{i}", ms=8, mec="k", mew=0.4)
                ax.plot(found.suggested[i], found.suggested_error[i], "*", **star)
        ax.set_ylim(np.nanmin(found.errors) / 10, 10)
        ax.set_xlim(part.betas[0], part.betas[-1])
        ax.set_title(f"{TITLES[found.learner]}; {found.scheme}", fontsize=8)
        below, above, *_ = EXPONENTS[found.learner, found.scheme]
        for power, side in ((below, slice(None, best)), (above, slice(best, None))):
            _guide(ax, part.betas[side], 0.4 * found.errors[-1][side], power)
        ax.legend(fontsize=5)
    for ax in axes[:, 0]:
        ax.set_ylabel("relative error")
    for ax in axes[-1]:
        ax.set_xlabel("β  (stars: suggest_beta)")


def _guide(ax: Any, x: np.ndarray, y: np.ndarray, power: float) -> None:
    """A straight line of the expected slope through one of the points."""
    at = len(x) // 3
    ax.plot(x, y[at] * (x / x[at]) ** power, "k--", lw=0.8, zorder=0)
    away = dict(xytext=(4, 6), textcoords="offset points")
    ax.annotate(f"slope {power}", (x[at], y[at]), fontsize=7, **away)


def draw_best(part: Part, every: list[Curves], axes: Any) -> None:
    """The best beta, and the error there, against delta; a row of figures for each learner."""
    for i, found in enumerate(every):
        best = part.betas[np.nanargmin(found.errors, axis=1)]
        powers = EXPONENTS[found.learner, found.scheme][2:]
        columns = zip(axes[i // 2], (best, np.nanmin(found.errors, axis=1)), powers, strict=True)
        for ax, y, power in columns:
            ax.loglog(found.delta, y, "o", color=f"C{3 * (i % 2)}", ms=4, label=found.scheme)
            if power is not None:
                scale = np.exp(np.mean(np.log(y) - power * np.log(found.delta)))
                line = dict(color=f"C{3 * (i % 2)}", lw=0.8, ls="--", label=f"slope {power:.2g}")
                ax.plot(found.delta, scale * found.delta**power, **line)
            ax.set_title(TITLES[found.learner], fontsize=8)
            ax.legend(fontsize=6)
    for ax in axes[-1]:
        ax.set_xlabel("δ, of the free phase")
    for row in axes:
        row[0].set_ylabel("best β")
        row[1].set_ylabel("best relative error")


def draw_costs(name: str, records: dict[int, list[Record]], axes: Any) -> None:
    """Error against cost, a line an estimator through the accuracies of the learner."""
    ax = axes.flat[0]
    for i, rows in enumerate(zip(*records.values(), strict=True)):
        cost = [r.gradients + 2 * r.products for r in rows]
        style = dict(color=f"C{i % 10}", ms=4, lw=1, label=rows[0].name)
        ax.loglog(cost, [r.error for r in rows], f"{MARKERS[i]}-", **style)
    ax.set_ylim(top=10)
    ax.set_title(name, fontsize=9)
    ax.set_xlabel("cost: gradients + 2 x Hessian products")
    ax.set_ylabel("relative error")
    ax.legend(fontsize=6, loc="center left", bbox_to_anchor=(1, 0.5))
