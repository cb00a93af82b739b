"""How accurate a meta-gradient is: the theorems of the paper, measured on three problems.

    python experiments/theory.py --method quadratic --seed 0
    metacontrast report runs/theory

Two learners: one that stops at a distance delta of each phase's minimum, in a random direction, as
the theorem supposes; and gradient descent with momentum, where the number of steps sets delta.
All in float64. The constants of `suggest_beta` were chosen on other problems than these.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import frame
import jax
import numpy as np
from _theory_measure import (
    EXPONENTS,
    SCHEMES,
    Curves,
    Descent,
    Row,
    both_sides,
    errors_anywhere,
    errors_of_descent,
    exact_gradient,
    slopes,
)
from _theory_problems import PROBLEMS, Case
from jaxtyping import PyTree

import metacontrast as mc
from metacontrast._stencil import Scheme
from metacontrast.accuracy import Record, compare, print_records
from metacontrast.report import figure, look


@dataclass(frozen=True, kw_only=True)
class Settings(frame.Settings):
    """What a run depends on. The method is the problem, which `seed` draws."""

    size: int  # Dimensions of the quadratic, digits to learn from, or units of the network.
    rate: float  # Of descent.
    momentum: float = 0.9  # Of descent.
    accuracies: tuple[int, ...]  # Numbers of steps of descent.
    exponents: tuple[int, int]  # Of 10, of the lowest and the highest beta.
    betas: int  # How many, evenly spaced in logarithms.
    every: int = 1  # Of the betas, measure one in so many.
    estimators: bool = True  # Measure what every estimator costs.

    def shorten(self) -> Self:
        """Half of the betas, and no estimators."""
        return replace(super().shorten(), every=2, estimators=False)


METHODS = {
    "quadratic": Settings(
        method="quadratic",
        size=20,
        rate=0.05,
        accuracies=(20, 45, 80, 120, 170, 220, 280),
        exponents=(-7, 3),
        betas=81,
    ),
    "digits": Settings(
        method="digits",
        size=300,
        rate=0.5,
        accuracies=(40, 80, 130, 180, 240),
        exponents=(-6, 1),
        betas=36,
    ),
    "network": Settings(
        method="network",
        size=8,
        rate=0.1,
        accuracies=(60, 120, 180, 240, 300),
        exponents=(-6, 2),
        betas=65,
    ),
}
EXPERIMENT = frame.Experiment(
    "theory",
    metric="distance of the measured exponents from the theory's",
    methods=METHODS,
    default="quadratic",
    rows=dict.fromkeys(METHODS, "0"),
)


def run(s: Settings) -> dict[str, Any]:
    """One problem: figures, and result.json with every exponent and cost."""
    if s.steps:
        raise ValueError("steps: theory takes no meta-steps; leave it out, or set --accuracies.")
    with jax.enable_x64(True):
        case = PROBLEMS[s.method](s.seed, s.size)
        folder, began = EXPERIMENT.claim(s), time.perf_counter()
        curves, exact = measure(s, case)
        others = [theorem(s, case), *(times_best(s, c) for c in curves if c.learner == "descent")]
        records = costs(s, case, curves, exact) if s.estimators else {}
    rows = [row for c in curves for row in slopes(s.method, c)]
    distances = [abs(row.measured - row.expected) for row in rows]
    rows += others
    print_rows(rows)
    if records:
        print_records(records[max(records)], f"{s.method}, {max(records)} steps")
    estimators = [{"steps": n} | plain(r._asdict()) for n, of in records.items() for r in of]
    kept: dict[str, Any] = {
        "curves": [plain(c._asdict()) for c in curves],
        "estimators": estimators,
    }
    draw(s.method, kept, folder)
    return EXPERIMENT.finish(
        s,
        distances,
        note=f"; figures: {folder}/*.png",
        seconds=time.perf_counter() - began,
        quantities=[plain(row._asdict()) for row in rows],
        **kept,
    )


def draw(name: str, result: Mapping[str, Any], folder: Path, prefix: str = "") -> None:
    """The figures of a result, into a folder."""
    curves = [from_plain(line) for line in result["curves"]]
    figure(folder / f"{prefix}error-against-beta", partial(draw_errors, curves), 2, 2, (3.6, 3.0))
    figure(folder / f"{prefix}best-against-delta", partial(draw_best, curves), 2, 2)
    if result["estimators"]:
        costs_figure = partial(draw_costs, name, result["estimators"])
        figure(folder / f"{prefix}error-against-cost", costs_figure, 1, 1, (7.0, 4.2))


def measure(s: Settings, case: Case) -> tuple[list[Curves], PyTree]:
    """The errors of both learners in both schemes, and the exact meta-gradient."""
    low, high = s.exponents
    betas = np.logspace(low, high, s.betas)[:: s.every]
    phi, exact = exact_gradient(case)
    curves = [errors_anywhere(case, betas, scheme, exact) for scheme in SCHEMES]
    curves += [errors_of_descent(case, descent(s), betas, c, phi, exact) for c in SCHEMES]
    return curves, exact


def descent(s: Settings) -> Descent:
    """The second learner."""
    return Descent(s.rate, s.momentum, s.accuracies)


def theorem(s: Settings, case: Case) -> Row:
    """How far the two sides of the equilibrium-propagation theorem are apart, relatively."""
    left, right = both_sides(case)
    apart = float(np.linalg.norm(left - right) / np.linalg.norm(right))
    return Row(s.method, "two sides of the EP theorem, apart", apart, 0.0)


def times_best(s: Settings, curves: Curves) -> Row:
    """How much above the least error `suggest_beta` comes out, at worst."""
    ratio = curves.suggested_error / np.nanmin(curves.errors, axis=1)
    quantity = f"descent, {curves.scheme}: worst error of suggest_beta / least"
    return Row(s.method, quantity, float(ratio.max()), 1.0)


def estimators(
    suggested: Mapping[Scheme, float], rate: float, steps: int
) -> dict[str, mc.Estimator]:
    """Every estimator, with a tenth of the learner's steps for iterations of its own.

    But `FirstOrder`, which is refused: in these problems theta is in the inner loss alone, where
    it would give 0.
    """
    few = max(steps // 10, 2)
    return {
        "contrastive, forward": mc.Contrastive(suggested["forward"]),
        "contrastive, symmetric": mc.Contrastive(suggested["symmetric"], "symmetric"),
        "contrastive, holomorphic": mc.Contrastive(0.02, "holomorphic"),
        "unrolled": mc.Unrolled(),
        "unrolled, truncated": mc.Unrolled(truncate=few),
        "implicit, CG": mc.Implicit("cg", few),
        "implicit, Hessian-free CG": mc.Implicit("cg", few, hessian_free=True),
        "implicit, Neumann": mc.Implicit("neumann", steps, rate=rate),
        "implicit, identity": mc.Implicit("identity"),
        "evolution": mc.Evolution(sigma=0.01, pairs=20),
    }


def costs(
    s: Settings, case: Case, curves: Sequence[Curves], exact: PyTree
) -> dict[int, list[Record]]:
    """Every estimator at every other accuracy of the learner, each contrast at its suggested beta.

    Returns:
        Of each number of steps, one record an estimator.
    """
    records = {}
    by_scheme = {c.scheme: c.suggested for c in curves if c.suggested is not None}
    for i, steps in list(enumerate(s.accuracies))[::2]:
        suggested = {scheme: float(betas[i]) for scheme, betas in by_scheme.items()}
        rules = estimators(suggested, s.rate, steps)
        plain = mc.descend(descent(s).optimizer(), steps)
        # A suggested beta can be large, where the plain rate would diverge.
        own = dict.fromkeys(list(rules)[:2], descent(s).solver(steps))
        solvers = dict.fromkeys(rules, plain) | own
        where = (case.theta, case.task, exact, jax.random.key(0))
        records[steps] = compare(rules, case.problem, solvers, *where, repeats=3)
    return records


def plain(x: Any) -> Any:
    """With lists for arrays, and None for what is not finite, which JSON lacks."""
    if isinstance(x, dict):
        return {name: plain(y) for name, y in x.items()}
    if isinstance(x, np.ndarray | list):
        return [plain(y) for y in (x.tolist() if isinstance(x, np.ndarray) else x)]
    return None if isinstance(x, float) and not np.isfinite(x) else x


def from_plain(line: Mapping[str, Any]) -> Curves:
    """The curves that `plain` made JSON of."""
    arrays = {x: np.array(y, float) for x, y in line.items() if isinstance(y, list)}
    return Curves(**(dict(line) | arrays))


def print_rows(rows: Sequence[Row]) -> None:
    """The table of what was measured and what is expected."""
    from rich.console import Console
    from rich.table import Table

    sheet = Table(title="theory: measured and expected", title_justify="left")
    for column in ("problem", "quantity"):
        sheet.add_column(column)
    for column in ("measured", "expected"):
        sheet.add_column(column, justify="right")
    for row in rows:
        sheet.add_row(row.problem, row.quantity, f"{row.measured:.3g}", f"{row.expected:.3g}")
    Console(width=100).print(sheet)


TITLES = {"anywhere": "stops anywhere within δ", "descent": "descent"}


def draw_errors(curves: Sequence[Curves], axes: Any) -> None:
    """Error against beta, a curve for each accuracy of the learner, with the expected slopes."""
    for ax, c in zip(axes.flat, curves, strict=True):
        best = int(np.nanargmin(c.errors[-1]))
        for i, (delta, errors) in enumerate(zip(c.delta, c.errors, strict=True)):
            ax.loglog(c.betas, errors, color=f"C{i}", lw=1.2, label=f"δ = {delta:.0e}")
            if c.suggested is not None and c.suggested_error is not None:
                star = dict(color=f"C{i}", ms=8, mec="k", mew=0.4)
                ax.plot(c.suggested[i], c.suggested_error[i], "*", **star)
        ax.set_ylim(np.nanmin(c.errors) / 10, 10)
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
    if not len(x):  # the best beta is the first one
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
        best = c.betas[np.nanargmin(c.errors, axis=1)]
        powers = EXPONENTS[c.learner, c.scheme][2:]
        columns = zip(axes[i // 2], (best, np.nanmin(c.errors, axis=1)), powers, strict=True)
        for ax, y, power in columns:
            own = look(f"contrastive, {c.scheme}")
            ax.loglog(c.delta, y, **own.line(ls="", label=c.scheme))
            if power is not None:
                scale = np.exp(np.mean(np.log(y) - power * np.log(c.delta)))
                line = dict(color=own.color, lw=0.8, ls="--", label=f"slope {power:.2g}")
                ax.plot(c.delta, scale * c.delta**power, **line)
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
    ax.set_ylim(min(errors) / 3, 3 * max(errors))  # of all of them
    ax.set_title(name)
    ax.set_xlabel("cost: gradients + 2 x Hessian products")
    ax.set_ylabel("relative error")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))


if __name__ == "__main__":
    EXPERIMENT.main(run)
