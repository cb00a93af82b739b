"""A run of few-shot classification: meta-train, select on validation classes, test, draw."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import typer

import metacontrast as mc

from ..report import figure
from ..tasks import Images, episodes
from ..train import Trained, evaluator, meta_train, summarise, write_result
from ._common import TEST_SEED, VALID_SEED, first_key, outer_optimizer, shortened
from ._few_shot_figures import draw_episode, draw_filters, draw_learning
from ._few_shot_learners import Learner, Settings

TEST_TASKS, TEST_QUERIES, VALID_TASKS, VALID_QUERIES, REFERENCES = 1000, 15, 100, 5, 500
QUICK_TEST_TASKS, QUICK_VALID_TASKS = 200, 20
AT_A_TIME = 20  # tasks whose images are in memory together

Published = Annotated[
    bool, typer.Option("--published", help="The published settings, for a GPU. Default: ours.")
]
Quick = Annotated[
    bool, typer.Option("--quick", help="In minutes: few meta-steps, and 200 test tasks.")
]


@dataclass(frozen=True)
class Cell:
    """One cell of a table: the tasks, and what learns them."""

    experiment: str
    label: str  # of the method in the table, with the kind of task
    images: Callable[[str], Images]  # of "train", "valid" and "test"
    rotations: tuple[bool, bool]  # as further classes: in training, and of held-out classes
    way: int
    shot: int
    learner: Learner
    settings: Settings
    reference: str = ""  # the talk's figure
    quick: bool = False  # fewer looks at validation tasks, fewer test tasks

    @property
    def test_tasks(self) -> int:
        return QUICK_TEST_TASKS if self.quick else TEST_TASKS

    @property
    def valid_tasks(self) -> int:
        return QUICK_VALID_TASKS if self.quick else VALID_TASKS


def in_short(settings: Settings, steps: int | None, quick: bool, part: int) -> Settings:
    """The settings with `steps` meta-steps; a quick run has 1 in `part`, and no further views."""
    chosen = shortened(settings, steps, quick, part)
    return replace(chosen, views=0) if quick else chosen


def scorer(cell: Cell) -> Callable[..., np.ndarray]:
    """`scores(theta, part)`: the accuracy in percent of each held-out task of "valid" or "test"."""
    learner = cell.learner
    accuracy = lambda phi, theta, task: (
        100 * jnp.mean(jnp.argmax(learner.logits(phi, theta, task), -1) == task.test.y)
    )
    scores = evaluator(learner.judge, learner.judge_solve, metric=accuracy, batch=AT_A_TIME)
    references = _references(cell.images("train"))
    prepared = jax.jit(learner.prepared)

    def every(theta: Any, part: str) -> np.ndarray:
        theta = prepared(theta, references)
        return np.concatenate([scores(theta, tasks) for tasks in held_out(cell, part)])

    return every


def _references(images: Images) -> jax.Array:
    """The first image of classes spread over all: what verdicts on single images may be told."""
    few = images.pixels[:: max(1, len(images.pixels) // REFERENCES), 0]
    return jnp.asarray(few, jnp.float32) / 255


def held_out(cell: Cell, part: str) -> Iterator[mc.Task]:
    """The tasks of "valid" or "test" classes, always the same, stacked, a few at a time."""
    n, seed = (cell.test_tasks, TEST_SEED) if part == "test" else (cell.valid_tasks, VALID_SEED)
    keys = jax.random.split(jax.random.key(seed), n)
    for start in range(0, n, AT_A_TIME):
        yield _drawer(cell, part)(keys[start : start + AT_A_TIME])


@cache  # to compile it once, not at each validation
def _drawer(cell: Cell, part: str) -> Callable[[jax.Array], mc.Task]:
    queries = TEST_QUERIES if part == "test" else VALID_QUERIES
    turned = cell.rotations[1]
    draw = episodes(cell.images(part), cell.way, cell.shot, queries, rotations=turned)
    return jax.jit(jax.vmap(draw))


def run(cell: Cell, name: str, seed: int, out: Path, resume: bool) -> dict[str, Any]:
    """Meta-train, test the theta that validation chose, write result.json and a figure."""
    scores = scorer(cell)
    trained = _meta_trained(cell, name, seed, out, resume, scores)
    # The only look at test classes, after all choices.
    values = scores(trained.best, "test")
    result = summarise(
        values,
        experiment=cell.experiment,
        method=cell.label,
        metric=f"accuracy in percent on {cell.test_tasks:,} tasks of test classes",
        seeds=[seed],
        meta_steps=cell.settings.steps,
        seconds=trained.seconds,
        reference=cell.reference,
        transductive=cell.learner.transductive,
    )
    write_result(out, result)
    task = jax.tree.map(lambda x: x[0], next(held_out(cell, "test")))
    theta = cell.learner.prepared(trained.best, _references(cell.images("train")))
    figure(out / "episode", partial(draw_episode, cell.learner, theta, task), 1, 2)
    figure(out / "learning", partial(draw_learning, trained.metrics), 1, 2)
    kernels = cell.learner.body(trained.best)[0]["w"]
    figure(out / "filters", partial(draw_filters, kernels), 1, 1)
    return result


def _meta_trained(
    cell: Cell, name: str, seed: int, out: Path, resume: bool, scores: Any
) -> Trained:
    settings = cell.settings
    draw = episodes(
        cell.images("train"),
        settings.train_way or cell.way,
        cell.shot,
        settings.queries,
        rotations=cell.rotations[0],
        distort=settings.distort,
        mirror=settings.mirror,
    )

    def valid(theta: Any) -> dict[str, float]:
        values = scores(theta, "valid")
        return {"loss": 100.0 - float(np.mean(values)), "accuracy": float(np.mean(values))}

    theta = cell.learner.first(first_key(seed))
    every = max(10, settings.steps // (40 if cell.quick else 200) * 10)
    return meta_train(
        cell.learner.train,
        cell.learner.solve,
        cell.learner.estimator,
        draw,
        theta,
        outer_optimizer(settings.outer_rate, settings.steps, settings.last_rate),
        steps=settings.steps,
        tasks=settings.tasks,
        seed=seed,
        out=out,
        resume=resume,
        # The outer rate's schedule depends on the number of steps: no other number resumes it.
        config={"experiment": cell.experiment, "method": name, "task": cell.label}
        | {"schedule": settings.steps}
        | {k: v for k, v in asdict(settings).items() if k not in ("steps", "tasks")},
        every=every,
        valid=valid,
    )
