"""A run of the loop, from a checkpoint or the start to its end."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
from tqdm import tqdm

from .._diagnosis import Diagnosis
from .._types import PyTree
from .._warn import warn
from ._block import Fetched, Line, Validate, run_block, run_validation
from ._collapse import MOST_ROLLBACKS, Looks, OnCollapse, collapse, finite, looks_of
from ._diagnosed import diagnosed
from ._divergence import before_trouble, check_trouble
from ._flagged import PATIENCE, check_flagged, warn_flagged
from ._folder import Folder
from ._layout import gather, to_host
from ._meta_step import compile_dispatch
from ._processes import is_first
from ._setup import MetaStep
from ._state import MetaState, Snapshot, copy_arrays


@dataclass(frozen=True)
class Trained:
    """The result of meta-training.

    Attributes:
        theta: the last theta; with `average_from`, the average.
        best: of the thetas that were validated, the first one among them, that of the lowest finite
            loss; without `validate`, and where no loss was finite, `theta`.
        metrics: one dict for each `log_every` meta-steps, the lines of `metrics.jsonl`: `step`, the
            means of `meta_loss` and of the diagnostics, the number of tasks that `diverged` and
            that were `flagged`, how often each of the `flags` was raised, `seconds`, and what
            `validate` returned as `valid_...`. None stands for "not finite".
        best_step: the meta-step that led to `best`, 0 for where the run started; None where `best`
            is `theta` for want of a finite loss.
        best_loss: the loss of its validation.
        phi: with a warm start, where the free phase of the long task is at the end.
        diagnosis: of the meta-gradient of the first task; None where it was not asked for, the run
            was resumed, has a warm start or several processes. Print it.
    """

    theta: PyTree
    best: PyTree
    metrics: tuple[Line, ...]
    phi: PyTree = None
    best_step: int | None = None
    best_loss: float | None = None
    diagnosis: Diagnosis | None = None

    @property
    def diverged(self) -> int:
        """How many tasks diverged, and were left out."""
        return sum(line["diverged"] for line in self.metrics)

    @property
    def flagged(self) -> int:
        """Of how many tasks the meta-gradient was flagged, whether it was left out or not."""
        return sum(line["flagged"] for line in self.metrics)

    @property
    def rollbacks(self) -> int:
        """How often the run went back to its best look; see `on_collapse`."""
        return max((line.get("rollbacks", 0) for line in self.metrics), default=0)

    @property
    def seconds(self) -> float:
        """The time that the meta-steps took, with their compilation but without validation."""
        return sum(line["seconds"] for line in self.metrics)


@dataclass(frozen=True)
class Plan:
    """How long a run is, and what is looked at on the way; the arguments of `meta_train`."""

    steps: int
    log_every: int
    steps_per_dispatch: int
    validate: Validate | None
    stops_at_flags: bool
    on_collapse: OnCollapse
    progress: bool
    diagnose: bool


def first_snapshot(step: MetaStep, theta: PyTree) -> Snapshot:
    """Before the first meta-step. Its phases are abstract: to run them costs a meta-step."""
    theta = copy_arrays(theta)
    moments = copy_arrays(step.optimizer.init(theta))
    average = None if step.average_from is None else copy_arrays(theta)
    phases = jax.eval_shape(step.first_phases, theta)
    usual, streak = jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32)
    rollbacks = jnp.zeros((), jnp.int32) if step.rolls_back else None
    state = MetaState(theta, moments, average, phases, usual, streak, rollbacks)
    return Snapshot(0, state, theta, kept=state if step.rolls_back else None)


def start(step: MetaStep, theta: PyTree, folder: Folder | None) -> tuple[Snapshot, list[Line]]:
    """The last checkpoint in the folder, or else what is before the first meta-step."""
    snapshot = first_snapshot(step, theta)
    snapshot = snapshot._replace(best=to_host(snapshot.best))
    snapshot, lines = (snapshot, []) if folder is None else folder.restore(snapshot)
    if snapshot.step == 0:
        state = snapshot.state
        if step.warm_start is not None:
            state = state._replace(phases=jax.jit(step.first_phases)(snapshot.theta))
        kept = to_host(state) if step.rolls_back else None
        snapshot = snapshot._replace(state=state, kept=kept)
    return snapshot.on_devices(step.layout), lines


def run(
    step: MetaStep, plan: Plan, snapshot: Snapshot, lines: list[Line], folder: Folder | None
) -> Trained:
    """Take the meta-steps that are left, look at where they lead, and keep it in the folder."""
    diagnosis = None
    if plan.diagnose and snapshot.step == 0:
        diagnosis = diagnosed(step, snapshot.state.theta, folder)
    dispatch, validate, warned = compile_dispatch(step), plan.validate, not is_first()
    check = partial(_check, step, PATIENCE if plan.stops_at_flags else None)
    bar = tqdm(total=plan.steps, initial=snapshot.step, unit="step", disable=not plan.progress)
    with bar:
        if snapshot.step == 0 and validate is not None:
            loss = run_validation(validate, snapshot, bar)["loss"]
            snapshot = snapshot._replace(start_loss=loss).looked_at(loss)
        looks = looks_of(lines, validate is not None, snapshot.start_loss)
        while snapshot.step < plan.steps:
            n = min(plan.log_every, plan.steps - snapshot.step)
            of = f"{n * step.tasks} tasks of {n} meta-steps"
            snapshot, line, flags = run_block(
                dispatch, snapshot, n, plan.steps_per_dispatch, bar, check
            )
            warned = warned or warn_flagged(flags, of)
            if validate is not None:
                scores = run_validation(validate, snapshot, bar)
                line |= {f"valid_{name}": finite(x) for name, x in scores.items()}
            snapshot, line = _look(step, plan, looks, snapshot, line)
            lines.append(line)
            if folder is not None:
                folder.add(line, gather(snapshot))
        trained = _trained(snapshot, lines, validate is not None)
        if trained.diverged and plan.progress:
            bar.write(f"{trained.diverged} tasks diverged and were left out.", file=sys.stderr)
        if trained.rollbacks and plan.progress:
            bar.write(f"It collapsed and was rolled back {trained.rollbacks} times.", sys.stderr)
    return replace(trained, diagnosis=diagnosis)


def _check(step: MetaStep, limit: int | None, metrics: Fetched, t: int) -> None:
    """Raise for the first of the meta-steps after `t` that none can follow."""
    end = before_trouble(metrics["trouble"])
    check_flagged(metrics["streak"][:end], metrics["flags"], t, step.tasks, limit)
    check_trouble(metrics["trouble"], t)


def _look(
    step: MetaStep, plan: Plan, looks: Looks, snapshot: Snapshot, line: Line
) -> tuple[Snapshot, Line]:
    """Keep what is best, and stop or go back if the last looks are a collapse."""
    loss = line["meta_loss" if plan.validate is None else "valid_loss"]
    snapshot = snapshot.looked_at(math.nan if loss is None else loss)
    looks.add(loss)
    n = 0 if snapshot.state.rollbacks is None else int(snapshot.state.rollbacks)
    if looks.is_collapse and plan.on_collapse != "ignore":
        if plan.on_collapse == "stop" or n == MOST_ROLLBACKS:
            best = jax.tree.map(jnp.asarray, snapshot.best)
            raise collapse(snapshot.step, loss, snapshot.best_loss, snapshot.best_step, best, n)
        snapshot, n = snapshot.rolled_back(step.layout), n + 1
        looks.forgive()
    return snapshot, line | ({"rollbacks": n} if step.rolls_back else {})


def _trained(snapshot: Snapshot, lines: list[Line], validated: bool) -> Trained:
    theta, best = to_host(snapshot.theta), snapshot.best
    best_step, best_loss = snapshot.best_step, snapshot.best_loss
    is_judged = validated and best_step >= 0
    if validated and not is_judged and is_first():
        warn(
            "validate: no loss was finite, so that `best` is the last theta; look at what it "
            "returns, and at tasks that diverge.",
        )
    theta, best = jax.tree.map(jnp.asarray, (theta, best if is_judged else theta))
    phi, judged = gather(snapshot.phi), (best_step, best_loss) if is_judged else (None, None)
    return Trained(theta, best, tuple(lines), phi, *judged)
