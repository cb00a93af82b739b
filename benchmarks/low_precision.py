"""Does meta-training come to the same where a network multiplies in TF32? Emulated on a CPU.

    python -m benchmarks.low_precision [--seeds N] [--steps N] [--result FILE]

`cml-head` at Omniglot's 20-way 1-shot tasks, each seed twice: with factors of all bits, and with
the network's rounded to the 10 bits that a GPU's TF32 has (`tests/precision.py`), in learning and
in judging. Both are judged on the same tasks of validation classes, without further views. Two
minutes a meta-training on an idle core, and about twice that with the emulation.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from metacontrast._precision import Precision
from metacontrast.tasks import omniglot
from metacontrast.train import half_width, provenance
from tests.precision import rounded  # noqa: F401 - which emulates it in this process

sys.path.append(str(Path(__file__).parents[1] / "experiments"))
import _few_shot
import omniglot as experiment
from _few_shot_learners import learner

PRECISIONS: tuple[Precision, ...] = ("highest", "tensorfloat32")
JUDGED = 500  # tasks of validation classes, with 15 queries a class
COMMAND = "python -m benchmarks.low_precision"


def accuracies(seed: int, steps: int, precision: Precision, out: Path) -> np.ndarray:
    """Meta-train, or go on, and judge the last theta: one accuracy a task, in percent."""
    s = replace(
        experiment.for_kind("cml-head"), seed=seed, steps=steps, precision=precision, resume=True,
        out=out / f"{precision}-seed{seed}", views=0, valid_tasks=20, validations=1,
        diagnose=False,
    )  # fmt: skip
    images = partial(omniglot, split=s.split, size=s.size)
    classes = _few_shot.Classes(images, rotate_train=True, rotate_held_out=True)
    one = learner(s, channels=1)
    scores = _few_shot.scorer(one, _few_shot.first_images(s, images("train")))
    trained = _few_shot.meta_train(experiment.EXPERIMENT, s, one, classes, scores)
    return scores(trained.theta, classes.held_out("valid", s, JUDGED, 15)())


def row(seed: int, steps: int, out: Path) -> dict[str, Any]:
    """Both, and their difference task by task."""
    exact, low = (accuracies(seed, steps, precision, out) for precision in PRECISIONS)
    return {
        "seed": seed,
        "highest": float(np.mean(exact)),
        "tensorfloat32": float(np.mean(low)),
        "difference": float(np.mean(low - exact)),
        "half_width": half_width(low - exact),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Accuracies in percent, and the difference with half its 95% interval over tasks."""
    lines = ["seed  all bits  TF32   difference"]
    lines += [
        f"{r['seed']:>4}  {r['highest']:>8.2f}  {r['tensorfloat32']:.2f}  "
        f"{r['difference']:+.2f} +- {r['half_width']:.2f}"
        for r in rows
    ]
    differences = [r["difference"] for r in rows]
    mean = f"{np.mean(differences):+.2f}"
    spread = f" +- {half_width(np.array(differences)):.2f}" if len(rows) > 1 else ""
    return "\n".join([*lines, f"mean{'':17}{mean}{spread}"])


def main() -> None:
    """Print the table, and write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--runs", type=Path, default=Path("runs/low-precision"))
    parser.add_argument("--result", type=Path, help="write the rows there")
    options = parser.parse_args()
    rows = []
    for seed in range(options.seeds):
        rows.append(row(seed, options.steps, options.runs))
        print(rows[-1], flush=True)
    print(table(rows))
    if options.result is not None:
        fields = {"command": COMMAND, "steps": options.steps, "tasks": JUDGED, "rows": rows}
        text = json.dumps(fields | {"made_by": provenance()}, indent=1)
        options.result.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
