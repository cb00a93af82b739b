"""How accurate a meta-gradient is: the theorems of the talk, measured on three problems.

    metacontrast run theory
    metacontrast table theory

Two learners: one that stops at a distance delta of each phase's minimum, in a random direction, as
the theorem supposes; and gradient descent with momentum, where the number of steps sets delta.
All in float64. The constants of `suggest_beta` were chosen on other problems than these.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import optax
import typer
from rich.console import Console
from rich.table import Table

import metacontrast as mc

from ..accuracy import Record, compare, print_records
from ..report import figure
from ..train import open_folder, summarise, write_result
from ._theory_figures import draw_best, draw_costs, draw_errors
from ._theory_measure import (
    MOMENTUM,
    SCHEMES,
    Curves,
    Row,
    anywhere,
    both_sides,
    descended,
    descent,
    exactly,
    slopes,
)
from ._theory_problems import PROBLEMS, Part

NAME = "theory"
METRIC = "distance of the measured exponents from the theory's"
METHODS = REFERENCE = dict.fromkeys(PROBLEMS, "0")


def main(
    method: Annotated[str, typer.Option(help=f"One of {', '.join(PROBLEMS)}.")] = "quadratic",
    seed: Annotated[int, typer.Option(help="Draws the problem.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Default: runs/theory/METHOD/seedSEED.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Do the run in OUT again.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer betas; no estimators.")] = False,
) -> None:
    """Measure errors against beta, solver accuracy and cost; compare with the theory."""
    if method not in PROBLEMS:
        raise ValueError(f"method: unknown {method!r}; choose one of {', '.join(PROBLEMS)}.")
    out = out or Path("runs") / NAME / method / f"seed{seed}"
    with jax.enable_x64(True):
        rows = run(method, seed, out, resume, quick)
    _print_rows(rows)
    print(f"Figures: {out}/*.png")


def run(name: str, seed: int, out: Path, resume: bool = False, quick: bool = False) -> list[Row]:
    """One problem: figures, and result.json with every exponent and cost."""
    open_folder(out, {"experiment": NAME, "method": name, "seed": seed, "quick": quick}, resume)
    began = time.perf_counter()
    part = PROBLEMS[name](seed)
    if quick:
        part = part._replace(betas=part.betas[::2])
    phi, exact = exactly(part)
    missed = [anywhere(part, scheme, exact) for scheme in SCHEMES]
    found = [descended(part, scheme, phi, exact) for scheme in SCHEMES]
    rows = [row for c in missed + found for row in slopes(name, part.betas, c)]
    left, right = both_sides(part)
    apart = float(np.linalg.norm(left - right) / np.linalg.norm(right))
    theorem = Row(name, "two sides of the EP theorem, apart", apart, 0.0)
    worst = [_times_best(name, c) for c in found]
    records = {} if quick else costs(part, found, exact)
    figure(out / "error-against-beta", partial(draw_errors, part, missed + found), 2, 2)
    figure(out / "best-against-delta", partial(draw_best, part, missed + found), 2, 2)
    if records:
        figure(out / "error-against-cost", partial(draw_costs, name, records), 1, 1, (7.0, 4.0))
        print_records(records[max(records)], f"{name}, {max(records)} steps")
    facts = dict(experiment=NAME, method=name, metric=METRIC, seeds=[seed], meta_steps=0)
    facts |= dict(seconds=time.perf_counter() - began, reference=REFERENCE[name])
    distances = [abs(row.measured - row.expected) for row in rows]
    rows = [*rows, theorem, *worst]
    write_result(out, summarise(distances, **facts, **_plain(rows, records)))
    return rows


def _times_best(name: str, found: Curves) -> Row:
    ratio = found.suggested_error / np.nanmin(found.errors, axis=1)
    return Row(
        name,
        f"descent, {found.scheme}: worst error of suggest_beta / least",
        float(ratio.max()),
        1.0,
    )


def estimators(suggested: dict[str, float], rate: float, steps: int) -> dict[str, Any]:
    """Every estimator, with a tenth of the learner's steps for iterations of its own."""
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
        "first order": mc.FirstOrder(),
        "evolution": mc.Evolution(sigma=0.01, pairs=20),
    }


def costs(part: Part, found: list[Curves], exact: Any) -> dict[int, list[Record]]:
    """Every estimator at three accuracies of the learner, each contrast at its suggested beta."""
    records = {}
    for i, steps in list(enumerate(part.steps))[::2]:
        suggested = {c.scheme: float(c.suggested[i]) for c in found}
        rules = estimators(suggested, part.rate, steps)
        plain = mc.descend(optax.sgd(part.rate, MOMENTUM), steps)
        # A suggested beta can be large, where the plain rate would diverge.
        own = dict.fromkeys(list(rules)[:2], descent(part.rate, steps))
        solve = dict.fromkeys(rules, plain) | own
        given = (part.theta, part.task, exact, jax.random.key(0))
        records[steps] = compare(rules, part.problem, solve, *given, repeats=3)
    return records


def _plain(rows: list[Row], records: dict[int, list[Record]]) -> dict[str, Any]:
    spent: list[dict[str, Any]] = [
        {"steps": n} | r._asdict() for n, found in records.items() for r in found
    ]
    for line in spent:  # JSON has no NaN or infinity
        if not np.isfinite(line["error"]):
            line |= {"error": None, "cosine": None}
    return {"rows": [row._asdict() for row in rows], "estimators": spent}


def _print_rows(rows: list[Row]) -> None:
    sheet = Table(title="theory: measured and expected", title_justify="left")
    for column in ("problem", "quantity"):
        sheet.add_column(column)
    for column in ("measured", "expected"):
        sheet.add_column(column, justify="right")
    for row in rows:
        sheet.add_row(row.problem, row.quantity, f"{row.measured:.3g}", f"{row.expected:.3g}")
    Console(width=100).print(sheet)
