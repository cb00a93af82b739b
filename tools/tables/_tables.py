"""Every table of the pages, by the name that stands in its marker."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from benchmarks import gpu_report
from benchmarks._malformed_report import table as malformed
from benchmarks._precision_report import table as low_precision
from benchmarks._report import caption
from benchmarks._run import PARTS
from benchmarks.gpu_report import load as load
from benchmarks.influence import table as influence
from benchmarks.maml_trajectory import table as maml_trajectory
from benchmarks.noisy import table as noisy
from benchmarks.noisy_labels import table as noisy_labels
from benchmarks.overfit_cosines import table as overfit_cosines
from benchmarks.search_cv import table as search_cv
from benchmarks.secant import report as secant
from benchmarks.storage import report as storage
from benchmarks.trajectory import table as trajectory
from benchmarks.trust import report, summary
from metacontrast import pretrained
from metacontrast.train import describe

from ..figures import experiment
from . import (
    _bandit,
    _bench,
    _collapse,
    _complementary,
    _denoise,
    _estimators,
    _hypercleaning,
    _l2,
    _omniglot,
    _overfit,
    _reweight,
    _sine,
    _spiking,
    _talk,
    _theory,
)
from ._pages import ROOT


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    several = list(rows) or [["not run yet", *[""] * (len(columns) - 1)]]
    head, *lines = ("| " + " | ".join(cells) + " |" for cells in (columns, *several))
    return "\n".join([head, "|" + "---|" * len(columns), *lines]).replace("  ", " ")


def text(lines: str) -> str:
    """A table as a program printed it."""
    return f"```text\n{lines}\n```"


def cells() -> str:
    """Every cell of the talk's tables, met or missed."""
    first_edition = load("first-edition")["tables"]["omniglot"]
    return markdown(*_talk.table(load("sine"), first_edition, collected("omniglot")))


def copied(name: str) -> str:
    """A table of the first edition, whose runs were not kept."""
    table = load("first-edition")["tables"][name]
    return markdown(table["columns"], table["rows"])


def collected(name: str) -> dict[str, Any]:
    """What runs of an experiment came to; nothing yet, where none was collected."""
    path = ROOT / "results" / f"{name}.json"
    return load(name) if path.is_file() else {"methods": {}, "runs": []}


def published() -> str:
    """Figures of others on sines from 10 points."""
    rows = load("published")["sine-10-points"]["rows"]
    return markdown(("method", "mean squared error"), rows)


def bench(part: str, title: str) -> str:
    """A table of a part of the benchmarks."""
    return markdown(*_bench.table(load(f"bench-{part}"), title))


def run_of(part: str) -> str:
    """What was run for it, where and when."""
    return caption(load(f"bench-{part}"))


def thetas() -> str:
    """Those that come with the package, and what each was tested to be."""
    columns = ("name", "what", "test", "the run")
    return markdown(columns, [_theta(name) for name in pretrained.NAMES])


def _theta(name: str) -> list[str]:
    result = pretrained.load(name).result
    what = result.get("label", result["method"])
    return [
        f"`{name}`",
        f"{result['experiment']}, {what}",
        describe(result),
        f"`{result['command']}`",
    ]


TABLES: dict[str, Callable[[], str]] = {
    "talk": cells,
    "sine": lambda: markdown(*_sine.beside_the_talk(load("sine"))),
    "sine-runs": lambda: markdown(*_sine.runs(load("sine"))),
    "sine-tuning": lambda: markdown(*_sine.tuning(load("sine-tuning"))),
    "sine-others": published,
    "pretrained": thetas,
    "estimators": lambda: markdown(*_estimators.table(load("estimators"))),
    "theory": lambda: markdown(*_theory.exponents(load("theory"), load("theory-quick"))),
    "theory-bound": lambda: markdown(*_theory.bounds(load("theory-bound"))),
    "credit": lambda: text(experiment("_credit_figures").table(load("credit")["runs"])),
    "bandit-games": lambda: markdown(*_bandit.games(collected("bandit"))),
    "bandit-players": lambda: markdown(*_bandit.players(load("bandit-players"))),
    "bandit-grid": lambda: markdown(*_bandit.grid(load("bandit-tuning"))),
    "spiking": lambda: markdown(*_spiking.errors(collected("spiking"))),
    "spiking-fast": lambda: markdown(*_spiking.fast(collected("spiking"))),
    **{f"{part}-run": partial(run_of, part) for part in PARTS},
    **{name: partial(bench, *which) for name, which in _bench.TITLES.items()},
    "hypercleaning": lambda: markdown(*_hypercleaning.table(load("hypercleaning"))),
    "complementary": lambda: markdown(*_complementary.table(load("complementary"))),
    "omniglot-published": lambda: markdown(*_omniglot.table(collected("omniglot"))),
    "collapse-runs": lambda: markdown(*_collapse.table(load("collapse-runs"))),
    "denoise": lambda: markdown(*_denoise.table(load("denoise"))),
    "cifar10-l2": lambda: markdown(*_l2.table(load("cifar10-l2"))),
    "cifar10-overfit": lambda: markdown(*_overfit.table(load("cifar10-overfit"))),
    "reweight": lambda: markdown(*_reweight.table(load("reweight"))),
    "search-cv": lambda: text(search_cv(load("search-cv")["rows"])),
    "overfit-cosines": lambda: text(overfit_cosines(load("cifar10-overfit-cosines")["rows"])),
    "trust": lambda: text(report(summary(load("trust")["rows"]))),
    "noisy": lambda: text(noisy(load("noisy")["cosines"])),
    "noisy-labels": lambda: text(noisy_labels(load("noisy-labels")["rows"])),
    "storage": lambda: text(storage(load("storage"))),
    "malformed": lambda: text(malformed(load("malformed")["rates"])),
    "secant": lambda: text(secant(load("secant"))),
    "low-precision": lambda: text(low_precision(load("low-precision")["rows"])),
    "maml-trajectory": lambda: text(maml_trajectory(load("maml-trajectory")["rows"])),
    "trajectory": lambda: text(trajectory(load("trajectory")["cases"])),
    "influence": lambda: text(influence(load("influence")["rows"])),
    **{f"gpu-{f.__name__}": lambda f=f: text(f()) for f in gpu_report.TABLES},  # type: ignore[misc]
    **{name: partial(copied, name) for name in load("first-edition")["tables"]},
}
