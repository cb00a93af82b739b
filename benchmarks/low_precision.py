"""Does meta-training come to the same where a network multiplies in TF32? Emulated on a CPU.

    python -m benchmarks.low_precision [--cases NAME ...] [--seeds N] [--result FILE]

Each seed twice: with factors of all bits, and with the network's rounded to the 10 bits that a
GPU's TF32 has (`tests/precision.py`), in learning and in judging. Both are judged on the same
held-out tasks: `omniglot` (`cml-head`, 20-way 1-shot, 2,000 meta-steps) on those of validation
classes, without further views; `sine-gn` and `sine-gd` (`sine.py --method cml-gn` and `cml-gd`,
whole) on validation tasks. One to four minutes a meta-training on an idle core, up to twice that
with the emulation.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks._characters import omniglot, trained
from benchmarks._kept import keep
from benchmarks._precision_report import table
from metacontrast._precision import Precision
from metacontrast.train import half_width
from tests.precision import rounded  # noqa: F401 - which emulates it in this process

sys.path.append(str(Path(__file__).parents[1] / "experiments"))
import sine

PRECISIONS: tuple[Precision, ...] = ("highest", "tensorfloat32")
JUDGED = 500  # validation tasks
COMMAND = "python -m benchmarks.low_precision"


def omniglot_head(**run: Any) -> np.ndarray:
    """Accuracies in percent, one a task of 15 queries a class."""
    s = replace(
        omniglot.for_kind("cml-head"), steps=2000, views=0, valid_tasks=20, validations=1, **run
    )
    return trained(s, JUDGED)[1]


def sines(method: str, **run: Any) -> np.ndarray:
    """Mean squared errors, one a task of 100 queries."""
    s = replace(sine.METHODS[method], **run)
    scores = sine.scorer(s)
    theta = sine.meta_train(s, sine.learner(s), scores).theta
    return np.asarray(scores(theta, sine.held_out(s, "valid", JUDGED)))


CASES: dict[str, Callable[..., np.ndarray]] = {
    "omniglot": omniglot_head,
    "sine-gn": partial(sines, "cml-gn"),
    "sine-gd": partial(sines, "cml-gd"),
}


def row(case: str, seed: int, out: Path) -> dict[str, Any]:
    """Both, and their difference task by task: they learned the same training tasks."""
    exact, low = (
        CASES[case](
            seed=seed, precision=precision, resume=True, diagnose=False,
            out=out / case / f"{precision}-seed{seed}",
        )
        for precision in PRECISIONS
    )  # fmt: skip
    return {
        "case": case,
        "seed": seed,
        "highest": float(np.mean(exact)),
        "highest_half_width": half_width(exact),
        "tensorfloat32": float(np.mean(low)),
        "difference": float(np.mean(low - exact)),
        "half_width": half_width(low - exact),
    }


def main() -> None:
    """Print the table, and write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path("runs/low-precision"))
    parser.add_argument("--result", type=Path, help="write the rows there")
    options = parser.parse_args()
    jax.config.update("jax_default_matmul_precision", "highest")  # as in every experiment
    rows = []
    for case in options.cases:
        for seed in range(options.seeds):
            rows.append(row(case, seed, options.runs))
            print(rows[-1], flush=True)
    print(table(rows))
    keep(options.result, COMMAND, tasks=JUDGED, rows=rows)


if __name__ == "__main__":
    main()
