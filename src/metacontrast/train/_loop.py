"""The meta-training loop."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from tqdm import tqdm

from .._check import check
from .._meta_loss import Estimator
from .._problem import Problem, PyTree
from .._solve import Solver
from ._block import Line, Reached, Valid, block, held, validated
from ._folder import Folder, claim
from ._meta_step import Advance, Draw, start, stepper, task_keys
from ._settings import checked_settings


@dataclass(frozen=True)
class Trained:
    """What meta-training found.

    Attributes:
        theta: the last theta; with `polyak`, the average.
        best: of the thetas that were validated, that of the lowest loss; without `valid`, `theta`.
        metrics: one dict for each `every` meta-steps, the lines of `metrics.jsonl`: `step`, the
            means of `meta_loss` and of the diagnostics, the number of tasks that `diverged`,
            `seconds`, and what `valid` returned as `valid_...`. None stands for "not finite".
    """

    theta: PyTree
    best: PyTree
    metrics: tuple[Line, ...]

    @property
    def diverged(self) -> int:
        """How many tasks diverged, and were left out."""
        return sum(line["diverged"] for line in self.metrics)

    @property
    def seconds(self) -> float:
        """The time that the meta-steps took, with their compilation but without validation."""
        return sum(line["seconds"] for line in self.metrics)


def meta_train(
    problem: Problem,
    solve: Solver,
    estimator: Estimator,
    draw: Draw,
    theta: PyTree,
    optimizer: optax.GradientTransformation,
    *,
    steps: int,
    tasks: int,
    seed: int,
    out: str | Path | None = None,
    resume: bool = False,
    config: Mapping[str, Any] | None = None,
    every: int = 100,
    chunk: int = 10,
    valid: Valid | None = None,
    polyak: int | None = None,
    progress: bool = True,
) -> Trained:
    """Meta-learn theta: each meta-step follows the mean meta-gradient of freshly drawn tasks.

    All randomness follows from `seed` and the number of the meta-step, so that a run that was
    stopped, by an error or by `kill -9`, and resumed is bit for bit the run that was not. A task
    that diverged is left out of the means, and counted: one whose meta-loss or meta-gradient is not
    finite, or whose inner loss ended more than ten times above where it started (where seeing that
    takes no second encoding of the task).

    Args:
        problem: what is learned.
        solve: how it is learned.
        estimator: how the meta-gradient is obtained.
        draw: `key -> task`, one training task.
        theta: where meta-training starts.
        optimizer: of theta, any of optax; schedules and clipping compose through it.
        steps: how many meta-steps.
        tasks: how many tasks a meta-step learns, side by side.
        seed: a whole number.
        out: a folder for config.json, metrics.jsonl and checkpoints/. Default: nothing is written.
        resume: go on with the run in `out`, to more `steps` if you like; start it if there is none.
        config: further settings for config.json, as JSON. The settings tell one run from another:
            give all that the result depends on.
        every: meta-steps from one line of metrics, validation and checkpoint to the next.
        chunk: meta-steps in one dispatch; divides `every`.
        valid: `theta -> {"loss": ..., ...}` on held-out tasks (see `evaluator`).
        polyak: average theta, as each meta-step from this one (1 is the first) to the last leaves
            it. The average is then what is validated and returned.
        progress: show a bar on stderr.

    Raises:
        ValueError: bad input (see `check`), or an `out` with anything in it but this run.
        DivergedError: every task of a meta-step diverged, or theta did. Checkpoints are kept.

    Example:
        >>> import jax, jax.numpy as jnp, optax, metacontrast as mc
        >>> problem = mc.Problem(
        ...     init=lambda theta, task: theta,
        ...     inner=lambda phi, theta, task: (phi - task) ** 2 + (phi - theta) ** 2,
        ...     outer=lambda phi, theta, task: (phi - 1.0) ** 2,
        ... )
        >>> solve = mc.descend(optax.sgd(0.2), steps=20)
        >>> trained = meta_train(
        ...     problem, solve, mc.Contrastive(beta=0.01), draw=jax.random.normal,
        ...     theta=jnp.array(0.0), optimizer=optax.sgd(0.5), steps=200, tasks=50, seed=0,
        ...     polyak=100, progress=False,
        ... )
        >>> round(float(trained.theta), 1)  # phi = (task + theta) / 2 should be 1 on average
        2.0
    """
    settings = checked_settings(
        config, dict(steps=steps, tasks=tasks, seed=seed, every=every, chunk=chunk, polyak=polyak)
    )
    if out is not None:
        claim(Path(out), settings, resume)
    check(problem, theta, jax.jit(lambda: draw(task_keys(seed, 0, tasks)[0][0]))())
    advance = stepper(problem, solve, estimator, draw, optimizer, tasks, seed, polyak)
    first = start(theta, optimizer, averaged=polyak is not None)
    at = Reached(0, first, held(first.theta))
    with nullcontext() if out is None else Folder(Path(out), settings) as folder:
        return _run(advance, at, folder, valid, steps, every, chunk, progress)


def _run(
    advance: Advance,
    at: Reached,
    folder: Folder | None,
    valid: Valid | None,
    steps: int,
    every: int,
    chunk: int,
    progress: bool,
) -> Trained:
    saved, lines = (at, []) if folder is None else folder.restore(at)
    at = saved.continued()
    with tqdm(total=steps, initial=at.step, unit="step", disable=not progress) as bar:
        while at.step < steps:
            at, line = block(advance, at, min(every, steps - at.step), chunk, bar)
            at, line = validated(valid, at, line, bar)
            lines.append(line)
            if folder is not None:
                folder.add(line, at)
        best = at.best if math.isfinite(at.best_loss) else at.theta
        trained = Trained(at.theta, jax.tree.map(jnp.asarray, best), tuple(lines))
        if trained.diverged and progress:
            bar.write(f"{trained.diverged} tasks diverged and were left out.", file=sys.stderr)
    return trained
