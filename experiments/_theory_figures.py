"""The figures of the theory, drawn from its results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from _theory_measure import EXPONENTS, Curves, has_logarithms, least

from metacontrast.report import figure, look


def draw_all(name: str, result: Mapping[str, Any], folder: Path, prefix: str = "") -> None:
    """The figures of a result, into a folder."""
    curves = [from_plain(line) for line in result["curves"]]
    figure(folder / f"{prefix}error-against-beta", partial(draw_errors, curves), 2, 2, (3.6, 3.0))
    figure(folder / f"{prefix}best-against-delta", partial(draw_best, curves), 2, 2)
    if result["estimators"]:
        costs_figure = partial(draw_costs, name, result["estimators"])
        figure(folder / f"{prefix}error-against-cost", costs_figure, 1, 1, (7.0, 4.2))


def from_plain(line: Mapping[str, Any]) -> Curves:
    """The curves that `plain` made JSON of."""
    arrays = {x: np.array(y, float) for x, y in line.items() if isinstance(y, list)}
    return Curves(**(dict(line) | arrays))


TITLES = {"anywhere": "stops anywhere within δ", "descent": "descent"}


def draw_errors(curves: Sequence[Curves], axes: Any) -> None:
    """Error against beta, a curve for each accuracy of the learner, with the expected slopes."""
    for ax, c in zip(axes.flat, curves, strict=True):
        best = int(least(c.errors[-1])[0])
        for i, (delta, errors) in enumerate(zip(c.delta, c.errors, strict=True)):
            ax.loglog(c.betas, errors, color=f"C{i}", lw=1.2, label=f"δ = {delta:.0e}")
            if c.suggested is not None and c.suggested_error is not None:
                star = dict(color=f"C{i}", ms=8, mec="k", mew=0.4)
                ax.plot(c.suggested[i], c.suggested_error[i], "*", **star)
        ax.set_ylim(np.min(c.errors[c.errors > 0], initial=1.0) / 10, 10)
        ax.set_xlim(c.betas[0], c.betas[-1])
        ax.set_title(f"{TITLES[c.learner]}; {c.scheme}")
        below, above, *_ = EXPONENTS[c.learner, c.scheme]
        for power, side in ((below, slice(None, best)), (above, slice(best, None))):
            draw_guide(ax, c.betas[side], 0.4 * c.errors[-1][side], power)
        ax.legend(fontsize=7.5, handlelength=1, labelspacing=0.2)
    for ax in axes[:, 0]:
        ax.set_ylabel("relative error")
    for ax in axes[-1]:
        ax.set_xlabel("β  (stars: suggest_beta)")


def draw_guide(ax: Any, x: np.ndarray, y: np.ndarray, power: float) -> None:
    """A straight line of the expected slope through one of the points, if there are any."""
    if not len(x) or not np.isfinite(y).all():  # the best beta is the first one, or there is none
        return
    rising = np.flatnonzero(y > 30 * y[0])  # above the best beta, past where the curve is flat
    falls = power < 0  # its label stands below the line, on whichever side that is
    at = int(rising[0]) if len(rising) else len(x) * (2 if falls else 1) // 3
    ax.plot(x, y[at] * (x / x[at]) ** power, "k--", lw=0.8, zorder=0)
    away = dict(xytext=(-5 if falls else 5, -9), textcoords="offset points")
    away["ha"] = "right" if falls else "left"
    ax.annotate(f"slope {power}", (x[at], y[at]), fontsize=7, **away)


def draw_best(curves: Sequence[Curves], axes: Any) -> None:
    """The best beta, and the error there, against delta; a row of figures for each learner."""
    for i, c in enumerate(curves):
        best, errors = least(c.errors)
        delta, best, errors = (x[has_logarithms(c.delta, errors)] for x in (c.delta, best, errors))
        powers = EXPONENTS[c.learner, c.scheme][2:]
        columns = zip(axes[i // 2], (c.betas[best], errors), powers, strict=True)
        for ax, y, power in columns:
            own = look(f"contrastive, {c.scheme}")
            ax.loglog(delta, y, **own.line(ls="", label=c.scheme))
            if power is not None and len(delta):
                scale = np.exp(np.mean(np.log(y) - power * np.log(delta)))
                line = dict(color=own.color, lw=0.8, ls="--", label=f"slope {power:.2g}")
                ax.plot(delta, scale * delta**power, **line)
            ax.set_title(TITLES[c.learner])
            ax.legend()
    for ax in axes[-1]:
        ax.set_xlabel("δ, of the free phase")
    for row in axes:
        row[0].set_ylabel("best β")
        row[1].set_ylabel("best relative error")


AROUND = ("implicit, Hessian-free CG",)  # drawn around the one it comes out like, CG with products


def draw_costs(name: str, records: Sequence[Mapping[str, Any]], axes: Any) -> None:
    """Error against cost, a line an estimator through the accuracies of the learner."""
    ax = axes.flat[0]
    for rule in dict.fromkeys(r["name"] for r in records):
        rows = [r for r in records if r["name"] == rule]
        cost = [r["gradients"] + 2 * r["products"] for r in rows]
        error = [np.nan if r["error"] is None else r["error"] for r in rows]
        around = dict(ms=11, mfc="none", lw=4, alpha=0.5, zorder=1) if rule in AROUND else {}
        ax.loglog(cost, error, **(look(rule).line(label=rule) | around))
    errors = [r["error"] for r in records if r["error"]]
    if errors:
        ax.set_ylim(min(errors) / 3, 3 * max(errors))  # of all of them
    ax.set_title(name)
    ax.set_xlabel("cost: gradients + 2 x Hessian products")
    ax.set_ylabel("relative error")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
