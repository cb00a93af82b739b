"""The meta-training loop."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from tqdm import tqdm

from .._check import check
from .._meta_loss import Estimator
from .._problem import Problem, PyTree
from .._solve import Solver
from ._block import Line, Reached, Valid, block, validated
from ._folder import Folder, claim
from ._mesh import check_tasks, gathered, held, resolved
from ._meta_step import Advance, Draw, start, stepper, task_keys
from ._processes import by_first, is_first, together
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
    at_a_time: int | None = None,
    progress: bool = True,
    mesh: Mesh | None = None,
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
        tasks: how many tasks a meta-step learns.
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
        at_a_time: how many tasks are learned side by side; divides `tasks`. Of those that are done
            only the sums are kept, so that memory grows with this number, not with `tasks`: 1 for
            large learners. The sums differ in their rounding alone. Default: all.
        progress: show a bar on stderr.
        mesh: devices with an axis "tasks", over which the tasks of a meta-step are spread, and
            perhaps "parameters", over which theta and phi are split; see `device_mesh`. With
            several processes all of them call this, alike; the first one reads and writes `out`.
            Results differ from those of one device by rounding alone, and a run may be resumed on
            another mesh. Default: what `use_devices` chose, or else one device.

    Raises:
        ValueError: bad input (see `check`), or an `out` with anything in it but this run.
        DivergedError: every task of a meta-step diverged, or theta did. Checkpoints are kept.
        LostProcessError: another process of this run ended. Checkpoints are kept.

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
    own = dict(steps=steps, tasks=tasks, seed=seed, every=every, chunk=chunk, polyak=polyak)
    settings = checked_settings(
        config, own | ({} if at_a_time is None else {"at_a_time": at_a_time})
    )
    mesh = resolved(mesh)
    check_tasks(at_a_time or tasks, mesh)
    if out is not None:
        by_first(partial(claim, Path(out), settings, resume))
    check(problem, theta, jax.jit(lambda: draw(task_keys(seed, 0, tasks)[0][0]))())
    advance = stepper(
        problem, solve, estimator, draw, optimizer, tasks, seed, polyak, at_a_time, mesh
    )
    first = start(theta, optimizer, averaged=polyak is not None)
    at = Reached(0, first, held(first.theta))
    with together():
        folder = None if out is None else Folder(Path(out), settings)
        return _run(advance, at, folder, valid, steps, every, chunk, progress, mesh)


def _run(
    advance: Advance,
    at: Reached,
    folder: Folder | None,
    valid: Valid | None,
    steps: int,
    every: int,
    chunk: int,
    progress: bool,
    mesh: Mesh | None,
) -> Trained:
    saved, lines = (at, []) if folder is None else folder.restore(at)
    at = saved.continued(mesh)
    progress = progress and is_first()
    with tqdm(total=steps, initial=at.step, unit="step", disable=not progress) as bar:
        while at.step < steps:
            at, line = block(advance, at, min(every, steps - at.step), chunk, bar)
            at, line = validated(valid, at, line, bar)
            lines.append(line)
            if folder is not None:
                folder.add(line, gathered(at))
        theta = held(at.theta)
        best = at.best if math.isfinite(at.best_loss) else theta
        theta, best = jax.tree.map(jnp.asarray, (theta, best))
        trained = Trained(theta, best, tuple(lines))
        if trained.diverged and progress:
            bar.write(f"{trained.diverged} tasks diverged and were left out.", file=sys.stderr)
    return trained
