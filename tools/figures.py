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

from benchmarks import trust
from benchmarks.gpu_report import load
from metacontrast.report import figure

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "docs" / "figures"


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
