"""Few-shot miniImageNet: photographs of 5 classes told apart from 1 or 5 of each.

    metacontrast run miniimagenet --way 5 --shot 1 --method cml-head --seed 0
    metacontrast table miniimagenet

The talk gives no figures for it. What Omniglot's module says of settings holds here too.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ..tasks import miniimagenet
from ._common import Resume, Seed, Steps
from ._few_shot import Cell, Published, Quick, in_short, run
from ._few_shot_learners import Settings
from ._few_shot_methods import METHODS as METHODS
from ._few_shot_methods import for_omniglot, learner

NAME = "miniimagenet"
METRIC = "accuracy in percent on 1,000 tasks of test classes"
REFERENCE = {f"{task} {method}": "" for task in ("5w1s", "5w5s") for method in METHODS}


def settings(method: str, way: int, shot: int, published: bool = False) -> Settings:
    """Those of Omniglot, but for what was published for miniImageNet.

    Of the contrastive rule the 1-shot settings are published alone, and serve for 5 shots too.
    Departures: stride 2 in place of pooling, here as on Omniglot. Ours are for twenty minutes of a
    CPU core, whatever the method: photographs of half the width and height, mirrored and distorted
    at random in training, and as many meta-steps as fit.
    """
    chosen = replace(for_omniglot(method, way, shot, published), size=84, channels=3)
    if not published:
        chosen = replace(chosen, size=42, filters=(32, 32, 64, 64), mirror=True, distort=1.0)
    if method == "cml-head":
        steps, train_way = (4500, 64) if shot == 1 else (4000, 32)
        return replace(chosen, steps=steps, train_way=train_way, unit=True)
    chosen = replace(chosen, outer_rate=1e-3, tasks=4)
    if published:
        chosen = replace(chosen, filters=(32, 32, 32, 32))
    else:
        chosen = replace(chosen, steps={"anil": 12_000, "fomaml": 8000}.get(method, 4500))
    if method in ("cml-syn", "cml-mod"):
        chosen = replace(chosen, beta=0.01, pull=0.25)
        if published:
            return replace(chosen, steps=25_000, inner_steps=100, nudged_steps=75)
    elif method in ("maml", "fomaml"):
        return replace(chosen, inner_rate=0.01, inner_steps=5)
    return chosen


def main(
    method: Annotated[str, typer.Option(help=f"One of {', '.join(METHODS)}.")] = "cml-head",
    way: Annotated[int, typer.Option(help="Classes a task.")] = 5,
    shot: Annotated[int, typer.Option(help="Photographs of each to learn from.")] = 1,
    seed: Seed = 0,
    steps: Steps = None,
    out: Annotated[
        Path | None, typer.Option(help="Default: runs/miniimagenet/TASK/METHOD/seedSEED.")
    ] = None,
    resume: Resume = False,
    published: Published = False,
    quick: Quick = False,
) -> None:
    """Meta-learn to tell photographs apart, and test on other classes."""
    task = f"{way}w{shot}s"
    chosen = in_short(settings(method, way, shot, published), steps, quick, part=20)
    cell = Cell(
        NAME,
        f"{task} {method}",
        partial(miniimagenet, size=chosen.size),
        (False, False),
        way,
        shot,
        learner(method, way, shot, chosen),
        chosen,
        quick=quick,
    )
    out = out or Path("runs") / NAME / task / method / f"seed{seed}"
    result = run(cell, method, seed, out, resume)
    value = f"{result['value']:.2f} +- {result['ci95']:.2f} %"
    print(f"{task} {method}, seed {seed}: {value} ({result['metric']})")
