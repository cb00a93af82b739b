"""The meta-training loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, TypeAlias

import jax
import optax
from jax.sharding import Mesh

from .._estimator._base import Estimator
from .._expected import check_arity
from .._features import Features
from .._must import Count, Seed
from .._precision import Precision
from .._problem import Problem
from .._solver._base import SolverLike
from .._solver._function import as_solver
from .._types import PyTree, Step
from ._block import Validate
from ._callbacks import Callback
from ._collapse import OnCollapse
from ._folder import Folder
from ._identity import identity, shapes
from ._layout import Layout
from ._mesh import resolve_mesh
from ._processes import explain_lost_process, is_first
from ._result import provenance
from ._run import Plan, Trained, run, start
from ._run import first_snapshot as first_snapshot
from ._settings import check_settings
from ._setup import MetaStep, SampleTask, WarmStart

OnFlag: TypeAlias = Literal["stop", "warn"]


def meta_train(
    problem: Problem,
    solver: SolverLike,
    estimator: Estimator | Callable[[Step], Estimator],
    sample_task: SampleTask,
    theta: PyTree,
    optimizer: optax.GradientTransformation,
    *,
    steps: Count,
    tasks: Count,
    seed: Seed,
    out: str | Path | None = None,
    resume: bool = False,
    config: Mapping[str, Any] | None = None,
    log_every: Count = 100,
    steps_per_dispatch: Count = 10,
    validate: Validate | None = None,
    average_from: Count | None = None,
    task_batch_size: Count | None = None,
    features: Features | None = None,
    warm_start: WarmStart | None = None,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
    mesh: Mesh | None = None,
    on_flag: OnFlag = "stop",
    on_collapse: OnCollapse = "stop",
    diagnose: bool = True,
    precision: Precision = "highest",
    patience: Count | None = None,
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
        out: a folder for config.json, metrics.jsonl, checkpoints/, and at the end theta.npz and,
            with `validate`, best.npz (see `load_theta`). Default: nothing is written.
        resume: go on with the run in `out`, to more `steps` if you like; start it if there is none.
            A damaged checkpoint is put aside, and the one before it taken, with a warning.
        config: further settings for config.json, as JSON. What tells one run from another is read
            off the arguments themselves (but `validate`), with what functions close over and name;
            give here what they do not show, such as the name of a data set.
        log_every: meta-steps from one line of metrics, validation and checkpoint to the next.
        steps_per_dispatch: meta-steps that are dispatched together; divides `log_every`.
        validate: `theta -> {"loss": ..., ...}` on held-out tasks (see `evaluator`), at the start
            and after each `log_every` meta-steps; with a warm start `(theta, phi) -> ...`, of which
            phi is not to be kept, since the next meta-step overwrites it.
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
        callbacks: are told of each line of the metrics, once its checkpoint is kept; see
            `Callback`, and `metacontrast.loggers` for TensorBoard and others. A run that is resumed
            goes on with the next line. One that raises is warned of, and left out from then on.
        mesh: devices with an axis "tasks", over which the tasks of a meta-step are spread, and
            perhaps "parameters", over which theta and phi are split; see `device_mesh`. With
            several processes all of them call this, alike; the first one reads and writes `out`.
            Results differ from those of one device by rounding alone, and a run may be resumed on
            another mesh. Default: what `use_devices` chose, or else one device.
        on_flag: what to do where more than half of the tasks of 10 meta-steps in a row were
            flagged: "stop", or "warn". Either way the first flags of tasks that were learned are
            warned of, with what to do about each.
        on_collapse: what to do where the loss (of `validate`, or else the mean meta-loss) is far
            above its best at three looks in a row, of which there is one each `log_every`
            meta-steps: "stop"; "rollback", which puts theta, the optimiser's state and all that
            goes with them back to where they were at the best look, so that schedules are there
            again too, and goes on with updates of half the size, up to five times (it keeps a
            second copy of them); or "ignore". The best is the lowest level of three looks in a row.
            A loss is far above it if it is not finite, or higher by more than its own size, half of
            what was gained, and three times the largest rise between two of the last 30 looks.
            Before the tenth look ten times the size is asked for, and mean meta-losses, of tasks
            that differ, are not compared. Where every task of a meta-step diverges, the run stops.
        diagnose: compare the meta-gradient of the first task with what learning it does, before a
            run starts; see `metacontrast.diagnose`. It costs up to 18 meta-gradients of one task
            and their compilation, and changes no number of the run. The report is in `out`, as
            `diagnosis.txt`, and in the `diagnosis` that is returned; if the verdict is not
            "trust", a `RuntimeWarning` says what to do. Not of a run that is resumed, has a warm
            start or several processes, nor where the environment says METACONTRAST_DIAGNOSE=off.
        precision: of the products of losses, features and `validate` that say nothing else; the
            library's own are of the highest. A GPU's own default is "tensorfloat32", whose 10 bits
            the difference of two near phases may not survive. It tells one run from another.
        patience: end the run where so many looks of `validate` in a row were not the best one.
            Default: all `steps` are taken.

    Raises:
        ValueError: bad input (see `check`), or an `out` with anything in it but this run.
        TypeError: an estimator that cannot do what `features` or `warm_start` ask of it.
        DivergedError: every task of a meta-step diverged, or theta or the optimiser's state did.
            Checkpoints are kept.
        FlaggedError: see `on_flag`. Checkpoints are kept.
        CollapsedError: see `on_collapse`. Checkpoints are kept, and the best theta is its `best`.
        LostProcessError: another process of this run ended. Checkpoints are kept.
        OSError: the disk is full or gone. What is kept is said.
        KeyboardInterrupt: Ctrl-C. It ends after the dispatch it is in, of which a checkpoint is
            kept; a second one at once.
        SystemExit: SIGTERM, likewise, with status 143.

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
        on_collapse="rollback" if on_collapse == "rollback" else None,
        depends_on=identity(
            problem=problem, solver=solver, estimator=estimator, sample_task=sample_task,
            optimizer=optimizer, features=features, theta=shapes(theta),
        ),
        precision=precision, versions=provenance()["versions"],
    )  # fmt: skip
    if validate is not None:
        check_arity("validate", validate, ("theta", "phi")[: 1 if warm_start is None else 2])
    elif patience is not None:
        raise ValueError("patience: counts looks of `validate`; give validate too.")
    layout = Layout(resolve_mesh(mesh))
    layout.check_tasks(task_batch_size or tasks)
    folder = None if out is None else Folder(Path(out), settings, resume)
    step = MetaStep(
        problem, as_solver(solver), estimator, sample_task, optimizer, tasks, seed,
        average_from, task_batch_size, features, warm_start, layout, on_collapse == "rollback",
    )  # fmt: skip
    plan = Plan(
        steps, log_every, steps_per_dispatch, validate, on_flag == "stop", on_collapse,
        progress and is_first(), diagnose, callbacks, patience,
    )  # fmt: skip
    with jax.default_matmul_precision(precision):
        step.check(theta)
        with explain_lost_process(), nullcontext() if folder is None else folder.open(resume):
            return run(step, plan, start(step, theta, folder), folder)
