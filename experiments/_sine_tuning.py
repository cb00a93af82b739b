"""The trials by which the rates of the published sine methods were tuned: `paper-...-tuned`.

    python experiments/_sine_tuning.py --runs RUNS --out results/sine-tuning.json

Whole meta-trainings with a seed that no result has, judged on validation tasks alone: by the median
of the last ten of twenty looks, so that a run that stops where it swings is not chosen by luck.
What RUNS holds finished is not run again.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import _quiet
import _tried
import sine

from metacontrast.train import DivergedError, read_metrics

SEED, LOOKS = 100, 10
FALLS = 0.02  # of the outer rate, what is left of it in the end
# Of each: the outer rate, what is left of it, the rate of learning, and beta.
TRIALS = {
    "paper-gd": [
        (0.003, 1.0, 0.01, 3.0), (0.01, 1.0, 0.01, 3.0), (0.01, FALLS, 0.01, 3.0),
        (0.03, FALLS, 0.01, 3.0), (0.01, FALLS, 0.01, 0.3), (0.01, FALLS, 0.01, 1.0),
        (0.01, FALLS, 0.01, 10.0), (0.01, FALLS, 0.001, 3.0), (0.03, FALLS, 0.001, 3.0),
        (0.1, FALLS, 0.001, 3.0), (0.01, FALLS, 0.003, 3.0), (0.03, FALLS, 0.003, 3.0),
        (0.1, FALLS, 0.003, 3.0), (0.3, FALLS, 0.003, 3.0),
    ],
    "paper-sgd": [
        (0.003, 1.0, 0.01, 3.0), (0.01, 1.0, 0.01, 3.0), (0.01, FALLS, 0.01, 3.0),
        (0.03, FALLS, 0.01, 3.0), (0.1, FALLS, 0.001, 3.0), (0.03, FALLS, 0.003, 3.0),
        (0.1, FALLS, 0.003, 3.0), (0.3, FALLS, 0.003, 3.0),
    ],
    "paper-maml": [
        (0.003, 1.0, 0.001, 3.0), (0.01, 1.0, 0.001, 3.0), (0.01, FALLS, 0.001, 3.0),
        (0.03, FALLS, 0.001, 3.0), (0.01, FALLS, 0.003, 3.0), (0.01, FALLS, 0.01, 3.0),
    ],
}  # fmt: skip


def tried(method: str, setting: tuple[float, float, float, float], runs: Path) -> dict[str, Any]:
    """A setting, and the errors on validation tasks at the last looks; none if it diverged."""
    outer_rate, last_rate, rate, beta = setting
    own: dict[str, Any] = dict(outer_rate=outer_rate, last_rate=last_rate, rate=rate, beta=beta)
    folder = runs / "-".join([method, *(f"{x:g}" for x in setting)])
    s = replace(
        sine.METHODS[method], seed=SEED, out=folder, resume=folder.is_dir(), diagnose=False,
        on_collapse="ignore", **own,
    )  # fmt: skip
    row = dict(method=method, **own)
    try:
        if not (folder / "theta.npz").is_file():  # which is written in the end
            sine.meta_train(s, sine.learner(s), sine.scorer(s))
    except DivergedError:
        return row | dict(value=None, looks=[])
    looks = [x["valid_loss"] for x in read_metrics(folder) if x.get("valid_loss") is not None]
    return row | dict(value=median(looks[-LOOKS:]), looks=[round(x, 4) for x in looks])


def main() -> None:
    """Try all, and keep what came out."""
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--runs", type=Path, required=True)
    ask.add_argument("--out", type=Path, required=True)
    given = ask.parse_args()
    pairs = [(method, setting) for method, several in TRIALS.items() for setting in several]
    rows = []
    for method, setting in pairs:
        rows.append(tried(method, setting, given.runs))
        print(json.dumps(rows[-1]), flush=True)
    tasks = sine.METHODS["paper-gd"].valid_tasks
    _tried.write(given.out, rows, judged=dict(seed=SEED, tasks=tasks, looks=LOOKS))


if __name__ == "__main__":
    _quiet.over()
    main()
