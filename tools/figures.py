"""Draw the figures of the pages again, from the results that are committed: `make figures`.

    python -m tools.figures [NAME ...]

Those that are not here are drawn by the experiments and benchmarks themselves, in minutes or hours;
each page names the command.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks import _accuracy, _growth_figure, trust
from benchmarks._measure import Measurement
from benchmarks.gpu_report import load
from metacontrast.report import figure

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "docs" / "figures"


def draw_accuracy(folder: Path) -> None:
    """Error against time."""
    points = load("bench-accuracy")["points"]
    problems = {point["problem"] for point in points}
    figure(folder / "accuracy", partial(_accuracy.draw, points), 1, len(problems))


def draw_growth(folder: Path) -> None:
    """Memory and time against inner steps, tasks and weights."""
    kept = load("bench-growth")["tables"]
    tables = {title: [Measurement(**row) for row in rows] for title, rows in kept.items()}
    figure(folder / "growth", partial(_growth_figure.draw, tables), 2, 3)


def draw_bandit(folder: Path) -> None:
    """What `cml-mod` plays over the disc, of its first seed."""
    run = next(run for run in load("bandit")["runs"] if run["method"] == "cml-mod")
    draw = partial(experiment("_bandit_figures").draw_policies, run["policies"])
    figure(folder / "bandit-policy", draw, 2, len(run["policies"]), (2, 2))


def draw_credit(folder: Path) -> None:
    """Any gradient: errors, cosines and learning curves."""
    credit = experiment("_credit_figures")
    figure(folder / "credit", partial(credit.draw, load("credit")["runs"]), 1, 3, credit.SIZE)


def draw_theory(folder: Path) -> None:
    """Errors against beta, accuracy and cost."""
    for name, result in load("theory")["problems"].items():
        experiment("_theory_figures").draw_all(name, result, folder, f"{name}-")


def draw_trust(folder: Path) -> None:
    """The error that `diagnose` expects against the one that was measured."""
    trust.figure(load("trust")["rows"], folder / "trust")


DRAWN: dict[str, Callable[[Path], None]] = {
    "accuracy": draw_accuracy,
    "bandit": draw_bandit,
    "growth": draw_growth,
    "credit": draw_credit,
    "theory": draw_theory,
    "trust": draw_trust,
}


def experiment(name: str) -> Any:
    """An experiment's module; they import each other by their names alone."""
    if (folder := str(ROOT / "experiments")) not in sys.path:
        sys.path.insert(0, folder)
    return import_module(name)


def draw(names: list[str], into: Path = FIGURES) -> list[Path]:
    """Draw some, of each of which the page shows the PNG; only those that a page shows."""
    drawn = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            DRAWN[name](Path(folder))
        for path in sorted(Path(folder).glob("*.png")):
            if (FIGURES / path.name).exists():
                drawn.append(Path(shutil.copy(path, into / path.name)))
    return drawn


if __name__ == "__main__":
    for path in draw(sys.argv[1:] or list(DRAWN)):
        print(path.relative_to(ROOT))
