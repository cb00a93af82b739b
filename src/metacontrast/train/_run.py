"""A run of the loop, from a checkpoint or the start to its end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import NoReturn

import jax
import jax.numpy as jnp

from .._diagnosis import Diagnosis
from .._types import PyTree
from .._warn import warn
from ._block import Fetched, Line, Validate, run_block, run_validation, summary
from ._callbacks import Callback, Callbacks
from ._collapse import MOST_ROLLBACKS, Looks, OnCollapse, collapse, finite, looks_of
from ._diagnosed import diagnosed
from ._divergence import before_trouble, check_trouble
from ._flagged import PATIENCE, check_flagged, warn_flagged
from ._folder import EMPTY, Block, Folder, Restored
from ._layout import gather, to_host
from ._meta_step import compile_dispatch
from ._processes import is_first
from ._progress import Progress
from ._setup import MetaStep
from ._state import MetaState, Snapshot, copy_arrays
from ._stop import Stop, StopNow


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
    callbacks: Sequence[Callback] = ()
    patience: int | None = None


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


def start(step: MetaStep, theta: PyTree, folder: Folder | None) -> Restored:
    """What the last checkpoint in the folder holds, or else what is before the first meta-step."""
    snapshot = first_snapshot(step, theta)
    snapshot = snapshot._replace(best=to_host(snapshot.best))
    snapshot, lines, block = (snapshot, [], EMPTY) if folder is None else folder.restore(snapshot)
    if snapshot.step == 0:
        state = snapshot.state
        if step.warm_start is not None:
            state = state._replace(phases=jax.jit(step.first_phases)(snapshot.theta))
        kept = to_host(state) if step.rolls_back else None
        snapshot = snapshot._replace(state=state, kept=kept)
    return Restored(snapshot.on_devices(step.layout), lines, block)


def run(step: MetaStep, plan: Plan, at: Restored, folder: Folder | None) -> Trained:
    """Take the meta-steps that are left, look at where they lead, and keep it in the folder."""
    course = _Course(step, plan, folder, *at)
    with course.progress, course.callbacks, course.stop.listening():
        with suppress(StopNow):
            course.begin()
            while not course.is_over:
                course.go_on()
        if course.stop.asked:
            course.end_early()
        trained = _trained(course.snapshot, course.lines, plan.validate is not None)
        if trained.diverged:
            course.progress.say(f"{trained.diverged} tasks diverged and were left out.")
        if trained.rollbacks:
            course.progress.say(f"It collapsed and was rolled back {trained.rollbacks} times.")
    if folder is not None:
        folder.write_theta("theta.npz", trained.theta)
        if trained.best_step is not None:
            folder.write_theta("best.npz", trained.best)
    return replace(trained, diagnosis=course.diagnosis)


@dataclass
class _Course:
    """A run on its way: where it is, block by block, whenever it is asked to stop."""

    step: MetaStep
    plan: Plan
    folder: Folder | None
    snapshot: Snapshot
    lines: list[Line]
    block: Block
    diagnosis: Diagnosis | None = None

    def __post_init__(self) -> None:
        self.stop = Stop()
        self.progress = Progress(self.plan.steps, self.snapshot.step, self.plan.progress)
        self.callbacks = Callbacks(self.plan.callbacks)

    @property
    def is_over(self) -> bool:
        """Whether all is done, nothing was gained for long, or it was asked to stop."""
        plan, began = self.plan, self.snapshot.step - self.block.steps
        best = max(self.snapshot.best_step, 0)
        is_idle = plan.patience is not None and began - best >= plan.patience * plan.log_every
        return began >= plan.steps or is_idle or self.stop.asked

    def begin(self) -> None:
        """Look at the first meta-gradient and the first theta, unless the run goes on."""
        self.callbacks.start(self.lines)
        self.dispatch, self.has_warned = compile_dispatch(self.step), not is_first()
        if self.snapshot.step == 0:
            with self.stop.at_once():
                if self.plan.diagnose:
                    self.diagnosis = diagnosed(self.step, self.snapshot.state.theta, self.folder)
                if self.plan.validate is not None:
                    loss = run_validation(self.plan.validate, self.snapshot, self.progress)["loss"]
                    self.snapshot = self.snapshot._replace(start_loss=loss).looked_at(loss)
        validated = self.plan.validate is not None
        self.looks = looks_of(self.lines, validated, self.snapshot.start_loss)

    def go_on(self) -> None:
        """Take a block of meta-steps, or what is left of it, and look where it leads."""
        plan, began = self.plan, self.snapshot.step - self.block.steps
        n = min(plan.log_every, plan.steps - began)
        check = partial(_check, self.step, PATIENCE if plan.stops_at_flags else None)
        self.snapshot, self.block = run_block(
            self.dispatch, self.snapshot, self.block, n, plan.steps_per_dispatch, self.progress,
            check, lambda: self.stop.asked,
        )  # fmt: skip
        if self.block.steps < n:
            return
        line, flags = summary(self.block, self.snapshot.step)
        of = f"{n * self.step.tasks} tasks of {n} meta-steps"
        self.has_warned = self.has_warned or warn_flagged(flags, of)
        if plan.validate is not None:
            with self.stop.at_once():
                scores = run_validation(plan.validate, self.snapshot, self.progress)
            line |= {f"valid_{name}": finite(x) for name, x in scores.items()}
        self.snapshot, line = _look(self.step, plan, self.looks, self.snapshot, line)
        self.lines.append(line)
        self.block = EMPTY
        if self.folder is not None:
            self.folder.add(self.lines, gather(self.snapshot))
        self.progress.look(line)
        self.callbacks.log(line)

    def end_early(self) -> NoReturn:
        """Keep what was done, and say how to go on."""
        at = self.snapshot.step
        if self.folder is None:
            kept = "nothing is kept; with out=FOLDER (--out) a run keeps its last meta-step"
        elif at == 0:
            kept = "nothing was done yet; start it again"
        else:
            if self.block.steps:
                self.folder.add_part(at, self.lines, gather(self.snapshot), self.block)
            kept = f"all of it is kept in {self.folder}; go on with resume=True (--resume)"
        self.stop.end(f"stopped at meta-step {at} of {self.plan.steps}: {kept}.")


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
