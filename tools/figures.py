"""Draw every figure of the pages again, from the results that are committed: `make figures`.

python -m tools.figures [NAME ...]
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from statistics import fmean
from typing import Any, TypeAlias

import jax.numpy as jnp

from benchmarks import _accuracy, _growth_figure, trust
from benchmarks._measure import Measurement
from benchmarks.gpu_report import load
from metacontrast.report import figure

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "docs" / "figures"
Curve: TypeAlias = list[dict[str, float]]
SPIKING = "cml-eprop"  # the method whose tasks are shown


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
    run = next(of_runs("bandit", method="cml-mod"))
    draw = partial(experiment("_bandit_figures").draw_policies, run["policies"])
    figure(folder / "bandit-policy", draw, 2, len(run["policies"]), (2, 2))


def draw_credit(folder: Path) -> None:
    """Any gradient: errors, cosines and learning curves."""
    credit = experiment("_credit_figures")
    figure(folder / "credit", partial(credit.draw, load("credit")["runs"]), 1, 3, credit.SIZE)


def draw_complementary(folder: Path) -> None:
    """Error against what is spoiled of the memory and the tags."""
    draw = experiment("complementary").draw_panels
    figure(folder / "complementary", partial(draw, load("complementary")["runs"]), 2, 3)


def draw_denoise(folder: Path) -> None:
    """Patches of the test photograph, with noise and without it, and the learned filters."""
    run, denoise = next(of_runs("denoise", method="filters")), experiment("denoise")
    theta = denoise.Theta(jnp.log(jnp.array(run["strengths"])), jnp.array(run["filters"]))
    s = replace(denoise.METHODS["filters"], seed=run["seeds"][0])
    draw = partial(denoise.draw, s, theta, denoise.tests_of(s))
    figure(folder / "denoise", draw, 2, 4)


def draw_lambda(folder: Path) -> None:
    """The lambdas of each layer that the anchored contrast learned, of its first seed."""
    run = next(of_runs("cifar10-l2", method="contrastive-anchored"))
    draw = partial(experiment("cifar10_l2").draw, run["histograms"])
    figure(folder / "lambda", draw, 1, 5, (2.2, 2.2))


def draw_overfit(folder: Path) -> None:
    """Validation loss and accuracy over meta-steps, of each method the mean over its seeds."""
    curves: dict[str, list[Curve]] = {}
    for run in load("cifar10-overfit")["runs"]:
        curves.setdefault(run["method"], []).append(run["curve"])
    rows = [{"method": name, "curve": mean_of(several)} for name, several in curves.items()]
    figure(folder / "overfit", partial(experiment("cifar10_overfit").draw, rows), 1, 2)


def mean_of(curves: list[Curve]) -> Curve:
    """The mean of several, look by look."""
    looks = zip(*curves, strict=True)
    return [{name: fmean(look[name] for look in each) for name in each[0]} for each in looks]


def draw_reweight(folder: Path) -> None:
    """Weights of the sources, and losses on the target."""
    draw = partial(experiment("reweight").draw, load("reweight")["runs"])
    figure(folder / "reweight", draw, 1, 3, (3.4, 2.9))


def draw_spiking(folder: Path) -> None:
    """Two sines, spikes, and the learning curve, of one run."""
    run = next(of_runs("spiking", method=SPIKING))
    figure(folder / "spiking", partial(experiment("spiking").draw, run), 2, 2)


def draw_two_phases(folder: Path) -> None:
    """The picture of the README, whose phases are run in seconds."""
    script = ROOT / "examples" / "two_phases.py"
    subprocess.run([sys.executable, script, folder / "two-phases.png"], check=True)


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
    "denoise": draw_denoise,
    "growth": draw_growth,
    "lambda": draw_lambda,
    "overfit": draw_overfit,
    "reweight": draw_reweight,
    "complementary": draw_complementary,
    "credit": draw_credit,
    "spiking": draw_spiking,
    "theory": draw_theory,
    "trust": draw_trust,
    "two-phases": draw_two_phases,
}


def of_runs(name: str, **facts: Any) -> Iterator[dict[str, Any]]:
    """The runs of an experiment that are so, in their order."""
    for run in load(name)["runs"]:
        if all(run[key] == value for key, value in facts.items()):
            yield run


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
