"""The talk's Omniglot table: characters told apart from 1 or 5 drawings of each.

    metacontrast run omniglot --way 20 --shot 1 --method cml-head --seed 0
    metacontrast table omniglot

Settings were chosen on validation classes alone, and so is the theta that is tested, once; the
published CML code tests every few epochs and reports the best of these tests.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ..tasks import omniglot
from ._common import Resume, Seed, Steps
from ._few_shot import Cell, Published, Quick, in_short, run
from ._few_shot_methods import METHODS as METHODS
from ._few_shot_methods import for_omniglot, learner

NAME = "omniglot"
METRIC = "accuracy in percent on 1,000 tasks of test classes"
# The talk's figures. CML's is of the data set's own split, "background"; the others are quoted
# there from the papers that made them, each with a split of its own at random.
_TALK = {
    "20w1s": {
        "cml-syn": "94.16 +- 0.12", "maml": "95.8 +- 0.3", "fomaml": "89.4 +- 0.5",
        "reptile": "89.43 +- 0.14", "imaml-cg": "94.46 +- 0.42",
    },
    "20w5s": {
        "cml-syn": "98.06 +- 0.26", "maml": "98.9 +- 0.2", "fomaml": "97.9 +- 0.1",
        "reptile": "97.12 +- 0.32", "imaml-cg": "98.69 +- 0.1",
    },
    "5w1s": {},
    "5w5s": {},
}  # fmt: skip
SPLITS = ("vinyals", "background")
REFERENCE = {
    f"{task} {method} {split}": talk.get(method, "")
    for task, talk in _TALK.items()
    for method in METHODS
    for split in SPLITS
}


def main(
    method: Annotated[str, typer.Option(help=f"One of {', '.join(METHODS)}.")] = "cml-head",
    way: Annotated[int, typer.Option(help="Classes a task.")] = 20,
    shot: Annotated[int, typer.Option(help="Drawings of each to learn from.")] = 1,
    split: Annotated[str, typer.Option(help=f"One of {', '.join(SPLITS)}.")] = "vinyals",
    seed: Seed = 0,
    steps: Steps = None,
    out: Annotated[
        Path | None, typer.Option(help="Default: runs/omniglot/TASK/SPLIT/METHOD/seedSEED.")
    ] = None,
    resume: Resume = False,
    published: Published = False,
    quick: Quick = False,
) -> None:
    """Meta-learn to tell characters apart, and test on characters of other alphabets."""
    task = f"{way}w{shot}s"
    chosen = in_short(for_omniglot(method, way, shot, published), steps, quick, part=100)
    cell = Cell(
        NAME,
        label := f"{task} {method} {split}",
        partial(omniglot, split=split, size=chosen.size),
        # As published: of Vinyals' split the rotated characters are classes to test on too, but not
        # of the data set's own.
        (True, split == "vinyals"),
        way,
        shot,
        learner(method, way, shot, chosen),
        chosen,
        REFERENCE.get(label, ""),
        quick,
    )
    out = out or Path("runs") / NAME / task / split / method / f"seed{seed}"
    result = run(cell, method, seed, out, resume)
    value = f"{result['value']:.2f} +- {result['ci95']:.2f} %"
    print(f"{label}, seed {seed}: {value} ({result['metric']})")
