"""The meta-training loop."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from tqdm import tqdm

from .._estimator._base import Estimator
from .._problem import Problem
from .._solver._base import SolverLike
from .._solver._function import as_solver
from .._types import PyTree, Step
from ._block import Fetched, Line, Validate, run_block, run_validation
from ._divergence import before_trouble, check_trouble
from ._features import Features
from ._flagged import PATIENCE, check_flagged, warn_flagged
from ._folder import Folder, claim
from ._layout import Layout, gather, to_host
from ._mesh import resolve_mesh
from ._meta_step import MetaStep, SampleTask, WarmStart, compile_dispatch
from ._processes import by_first, explain_lost_process, is_first
from ._settings import check_choice, check_settings
from ._state import MetaState, Snapshot, copy_arrays

OnFlag: TypeAlias = Literal["stop", "warn"]


@dataclass(frozen=True)
class Trained:
    """The result of meta-training.

    Attributes:
        theta: the last theta; with `average_from`, the average.
        best: of the thetas that were validated, that of the lowest loss; without `validate`,
            `theta`.
        metrics: one dict for each `log_every` meta-steps, the lines of `metrics.jsonl`: `step`, the
            means of `meta_loss` and of the diagnostics, the number of tasks that `diverged` and
            that were `flagged`, how often each of the `flags` was raised, `seconds`, and what
            `validate` returned as `valid_...`. None stands for "not finite".
        phi: with a warm start, where the free phase of the long task is at the end.
    """

    theta: PyTree
    best: PyTree
    metrics: tuple[Line, ...]
    phi: PyTree = None

    @property
    def diverged(self) -> int:
        """How many tasks diverged, and were left out."""
        return sum(line["diverged"] for line in self.metrics)

    @property
    def flagged(self) -> int:
        """Of how many tasks the meta-gradient was flagged, whether it was left out or not."""
        return sum(line["flagged"] for line in self.metrics)

    @property
    def seconds(self) -> float:
        """The time that the meta-steps took, with their compilation but without validation."""
        return sum(line["seconds"] for line in self.metrics)


def meta_train(
    problem: Problem,
    solver: SolverLike,
    estimator: Estimator | Callable[[Step], Estimator],
    sample_task: SampleTask,
    theta: PyTree,
    optimizer: optax.GradientTransformation,
    *,
    steps: int,
    tasks: int,
    seed: int,
    out: str | Path | None = None,
    resume: bool = False,
    config: Mapping[str, Any] | None = None,
    log_every: int = 100,
    steps_per_dispatch: int = 10,
    validate: Validate | None = None,
    average_from: int | None = None,
    task_batch_size: int | None = None,
    features: Features | None = None,
    warm_start: WarmStart | None = None,
    progress: bool = True,
    mesh: Mesh | None = None,
    on_flag: OnFlag = "stop",
) -> Trained:
    """Meta-learn theta: each meta-step follows the mean meta-gradient of freshly drawn tasks.

    All randomness follows from `seed` and the number of the meta-step, so that a run that was
    stopped, by an error or by `kill -9`, and resumed is bit for bit the run that was not. A task
    that diverged is left out of the means, and counted: one whose meta-loss or meta-gradient is not
    finite; whose inner loss ended more than ten times above where it started, or, if its start has
    solved it, a hundredth of what the loss is at phi = 0; or whose meta-gradient is 1e9 times
    larger than any mean before it, which would freeze an optimiser that divides by its square. In
    a warm start the inner loss is looked at in every tenth meta-step.

    With `warm_start` there is one long task, of which each meta-step sees a fresh part (batches of
    its data), and its phases are not started anew but go on, a few steps a meta-step: for learners
    so large that they are trained once. With a phase of one step and a beta that falls from
    meta-step to meta-step this is F2SA (Kwon, Kwon, Wright, Nowak, 2023), see `meta_gradient`.

    Args:
        problem: what is learned.
        solver: how; a `Solver`, or any function that `as_solver` takes.
        estimator: how the meta-gradient is obtained; or a function from the number of the meta-step
            (from 0; traced) to an estimator, always of the same scheme: a schedule for beta.
        sample_task: `key -> task`, one training task.
        theta: where meta-training starts.
        optimizer: of theta, any of optax; schedules, clipping and line searches compose through it.
        steps: how many meta-steps.
        tasks: how many tasks a meta-step learns.
        seed: a whole number from 0 to 2^32 - 1.
        out: a folder for config.json, metrics.jsonl and checkpoints/. Default: nothing is written.
        resume: go on with the run in `out`, to more `steps` if you like; start it if there is none.
        config: further settings for config.json, as JSON. The settings tell one run from another:
            give all that the result depends on.
        log_every: meta-steps from one line of metrics, validation and checkpoint to the next.
        steps_per_dispatch: meta-steps that are dispatched together; divides `log_every`.
        validate: `theta -> {"loss": ..., ...}` on held-out tasks (see `evaluator`); with a warm
            start `(theta, phi) -> ...`, of which phi is not to be kept, since the next meta-step
            overwrites it.
        average_from: average theta, as each meta-step from this one (1 is the first) to the last
            leaves it. The average is then what is validated and returned.
        task_batch_size: how many tasks are learned side by side; divides `tasks`. Of those that are
            done only the sums are kept, so that memory grows with this number, not with `tasks`: 1
            for large learners. The sums differ in their rounding alone. Default: all.
        features: `(theta, task) -> (theta, z)`, what the functions of the problem are called with
            in place of theta and the task: features of a slow body, `lambda theta, task:
            (theta.head, f(theta.body, task))`. They are computed once a task, and gone back through
            once, by the gradient by z; for estimators that give it.
        warm_start: "phases": each phase of the long task goes on from where it stopped; "free":
            the free phase does, and the nudged ones start where it has got to, for losses with many
            minima, in which phases that go their own ways drift apart. `tasks` is then 1.
        progress: show a bar on stderr.
        mesh: devices with an axis "tasks", over which the tasks of a meta-step are spread, and
            perhaps "parameters", over which theta and phi are split; see `device_mesh`. With
            several processes all of them call this, alike; the first one reads and writes `out`.
            Results differ from those of one device by rounding alone, and a run may be resumed on
            another mesh. Default: what `use_devices` chose, or else one device.
        on_flag: what to do where more than half of the tasks of 10 meta-steps in a row were flagged
            (of all meta-steps, in a shorter run): "stop", or "warn". Either way the first flags
            of tasks that were learned are warned of, with what to do about each.

    Raises:
        ValueError: bad input (see `check`), or an `out` with anything in it but this run.
        TypeError: an estimator that cannot do what `features` or `warm_start` ask of it.
        DivergedError: every task of a meta-step diverged, or theta or the optimiser's state did.
            Checkpoints are kept.
        FlaggedError: see `on_flag`. Checkpoints are kept.
        LostProcessError: another process of this run ended. Checkpoints are kept.

    Example:
        >>> import jax, jax.numpy as jnp, optax, metacontrast as mc
        >>> problem = mc.Problem(
        ...     init=lambda theta, task: theta,
        ...     inner=lambda phi, theta, task: (phi - task) ** 2 + (phi - theta) ** 2,
        ...     outer=lambda phi, theta, task: (phi - 1.0) ** 2,
        ... )
        >>> solver = mc.descend(optax.sgd(0.2), steps=20)
        >>> trained = meta_train(
        ...     problem, solver, mc.Contrastive(beta=0.01), sample_task=jax.random.normal,
        ...     theta=jnp.array(0.0), optimizer=optax.sgd(0.5), steps=200, tasks=50, seed=0,
        ...     average_from=100, progress=False,
        ... )
        >>> round(float(trained.theta), 1)  # phi = (task + theta) / 2 should be 1 on average
        2.0
    """
    settings = check_settings(
        config, steps=steps, tasks=tasks, seed=seed, log_every=log_every,
        steps_per_dispatch=steps_per_dispatch, average_from=average_from,
        task_batch_size=task_batch_size, warm_start=warm_start,
    )  # fmt: skip
    check_choice("on_flag", on_flag, ("stop", "warn"))
    layout = Layout(resolve_mesh(mesh))
    layout.check_tasks(task_batch_size or tasks)
    if out is not None:
        by_first(partial(claim, Path(out), settings, resume))
    step = MetaStep(
        problem, as_solver(solver), estimator, sample_task, optimizer, tasks, seed,
        average_from, task_batch_size, features, warm_start, layout,
    )  # fmt: skip
    step.check(theta)
    with explain_lost_process():
        folder = None if out is None else Folder(Path(out), settings)
        first, lines = _start(step, theta, folder)
        run = partial(_run, step, first, lines, folder, validate, on_flag)
        return run(steps, log_every, steps_per_dispatch, progress and is_first())


def first_snapshot(step: MetaStep, theta: PyTree) -> Snapshot:
    """Before the first meta-step. Its phases are abstract: to run them costs a meta-step."""
    theta = copy_arrays(theta)
    moments = copy_arrays(step.optimizer.init(theta))
    average = None if step.average_from is None else copy_arrays(theta)
    phases = jax.eval_shape(step.first_phases, theta)
    usual, streak = jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32)
    state = MetaState(theta, moments, average, phases, usual, streak)
    return Snapshot(0, state, theta)


def _start(step: MetaStep, theta: PyTree, folder: Folder | None) -> tuple[Snapshot, list[Line]]:
    """The last checkpoint in the folder, or else what is before the first meta-step."""
    snapshot = first_snapshot(step, theta)
    snapshot = snapshot._replace(best=to_host(snapshot.best))
    snapshot, lines = (snapshot, []) if folder is None else folder.restore(snapshot)
    if snapshot.step == 0 and step.warm_start is not None:
        phases = jax.jit(step.first_phases)(snapshot.theta)
        snapshot = snapshot._replace(state=snapshot.state._replace(phases=phases))
    return snapshot.on_devices(step.layout), lines


def _run(
    step: MetaStep,
    snapshot: Snapshot,
    lines: list[Line],
    folder: Folder | None,
    validate: Validate | None,
    on_flag: OnFlag,
    steps: int,
    log_every: int,
    steps_per_dispatch: int,
    progress: bool,
) -> Trained:
    dispatch, warned = compile_dispatch(step), not is_first()
    limit = min(PATIENCE, steps) if on_flag == "stop" else None

    def check(metrics: Fetched, t: int) -> None:
        end = before_trouble(metrics["trouble"])
        check_flagged(metrics["streak"][:end], metrics["flags"], t, step.tasks, limit)
        check_trouble(metrics["trouble"], t)

    with tqdm(total=steps, initial=snapshot.step, unit="step", disable=not progress) as bar:
        while snapshot.step < steps:
            n = min(log_every, steps - snapshot.step)
            of = f"{n * step.tasks} tasks of {n} meta-steps"
            snapshot, line, flags = run_block(dispatch, snapshot, n, steps_per_dispatch, bar, check)
            warned = warned or warn_flagged(flags, of, stacklevel=3)
            snapshot, line = run_validation(validate, snapshot, line, bar)
            lines.append(line)
            if folder is not None:
                folder.add(line, gather(snapshot))
        theta = to_host(snapshot.theta)
        best = snapshot.best if math.isfinite(snapshot.best_loss) else theta
        theta, best = jax.tree.map(jnp.asarray, (theta, best))
        trained = Trained(theta, best, tuple(lines), gather(snapshot.phi))
        if trained.diverged and progress:
            bar.write(f"{trained.diverged} tasks diverged and were left out.", file=sys.stderr)
    return trained
