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
from typing import Any, Self

import frame
import jax
import numpy as np
from _theory_figures import draw_all
from _theory_measure import (
    SCHEMES,
    Curves,
    Descent,
    Row,
    both_sides,
    errors_anywhere,
    errors_of_descent,
    exact_gradient,
    least,
    slopes,
)
from _theory_problems import PROBLEMS, Case
from jaxtyping import PyTree

import metacontrast as mc
from metacontrast._stencil import Scheme
from metacontrast.accuracy import Record, compare, print_records
from metacontrast.train._result import plain


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


TINY = 1e-300  # in place of an error of zero


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
    distances = np.array([abs(row.measured - row.expected) for row in rows])
    is_measured = np.isfinite(distances)  # not of a learner too crude to show the two branches
    rows += others
    print_rows(rows)
    if records:
        print_records(records[max(records)], f"{s.method}, {max(records)} steps")
    estimators = [{"steps": n} | plain(r._asdict()) for n, of in records.items() for r in of]
    kept: dict[str, Any] = {
        "curves": [plain(c._asdict()) for c in curves],
        "estimators": estimators,
    }
    draw_all(s.method, kept, folder)
    return EXPERIMENT.finish(
        s,
        distances[is_measured],
        note=f"; {sum(~is_measured)} exponents not measured; figures: {folder}/*.png",
        seconds=time.perf_counter() - began,
        quantities=[plain(row._asdict()) for row in rows],
        **kept,
    )


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
    ratio = curves.suggested_error / np.maximum(least(curves.errors)[1], TINY)
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


if __name__ == "__main__":
    EXPERIMENT.main(run)
