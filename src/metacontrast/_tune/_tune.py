"""Tuning of a model of one's own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import optax

from .._diagnosis import Diagnosis
from .._estimator._base import Estimator
from .._must import Count, Seed
from .._solver._descend import Optimizer, descend
from .._types import Arrays, Learned, PyTree
from ..train import Callback, Trained, meta_train
from ._choose import Choice, choose
from ._losses import Task, UserLoss
from ._splits import checked_splits
from ._training import Training


@dataclass(frozen=True)
class Tuned:
    """What `tune` found; it prints as a short report.

    Attributes:
        theta: the meta-parameters of the lowest loss on the third split.
        params: the model trained with them, of the structure given.
        state: that of the model, if it has one.
        stop_loss: its loss on the third split.
        step: the meta-step that led there; 0 is the theta given.
        history: of the start and of every look, `step`, `stop_loss`, and from the second one on
            `valid_loss`, the mean over the meta-steps since the last.
        estimator: by which the meta-gradient was found.
        why: why that one.
        diagnosis: what `diagnose` said at the start; None if it was not asked.
        trained: all that `meta_train` returns.
    """

    theta: PyTree
    params: PyTree
    state: PyTree
    stop_loss: float
    step: int
    history: tuple[Mapping[str, float | None], ...]
    estimator: Estimator
    why: str
    diagnosis: Diagnosis | None
    trained: Trained

    def __str__(self) -> str:
        """The report."""
        last, first = self.history[-1]["step"], self.history[0]["stop_loss"]
        return "\n".join([
            _told(Choice(self.estimator, self.why, self.diagnosis)),
            f"best after {self.step} of {last} meta-steps: {self.stop_loss:.4g} on the third "
            f"split, {first:.4g} at the start",
        ])  # fmt: skip


def tune(
    train_loss: Callable[..., Any],
    valid_loss: Callable[..., Any],
    params: PyTree,
    theta: Learned,
    train: Arrays,
    valid: Arrays,
    stop: Arrays | None = None,
    *,
    optimizer: Optimizer,
    steps: Count,
    batch_size: Count | None = None,
    state: PyTree = None,
    meta_steps: Count = 100,
    meta_optimizer: optax.GradientTransformation | None = None,
    estimator: Estimator | None = None,
    look_every: Count = 5,
    patience: Count = 5,
    seed: Seed = 0,
    out: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
    diagnose: bool = True,
) -> Tuned:
    """Tune the meta-parameters theta of a model of one's own, many of them at once.

    Train, see how the validation loss of the trained model changes with every number in theta, move
    theta that way, and train again from the same start:

        theta <- theta - d/dtheta valid_loss(params_T(theta)),

    by the contrastive rule where training comes to rest, by `Trajectory` where it does not: that is
    measured at the start, and reported. As many numbers overfit the validation data that they are
    tuned on; so what is returned is the best by a third split, on which tuning stops.

    Args:
        train_loss: `(params, theta, batch) -> number`, which training minimises. With an argument
            named `key` it is also given `key=`, one of jax.random, another at every step, for
            dropout. With `state` it is called as `(params, theta, batch, state)`, and returns
            `(number, state)`.
        valid_loss: likewise, on all of `valid`; need not return the state.
        params: where training starts, any pytree: a dict, an equinox module, an `nnx.State`. Its
            floating arrays are trained, the rest is handed on.
        theta: where tuning starts, any pytree of floating numbers.
        train: data, a pytree of arrays of which each has one row an example, `(x, y)` say.
        valid: data by which the meta-gradient is taken.
        stop: data by which theta is chosen, and tuning stopped. Default: a random half of `valid`.
        optimizer: of training, any of optax; or a function `theta -> optimizer`, by which its rates
            are tuned too.
        steps: of training.
        batch_size: rows a step, drawn without replacement, anew in each meta-step. Default: all.
        state: that of the model where training starts, such as batch norm's statistics.
        meta_steps: at most.
        meta_optimizer: of theta. Default: `optax.adam(0.1)`, for logarithms and logits.
        estimator: how the meta-gradient is found. Default: as above.
        look_every: meta-steps from one look at the third split to the next.
        patience: how many looks without a lower loss there end the run.
        seed: of batches and noise.
        out: a folder for what the run keeps, see `metacontrast.train.meta_train`.
        resume: go on with the run in `out`.
        progress: show a bar and the choice of the estimator, on stderr.
        callbacks: what is told of every look, see `meta_train`.
        diagnose: compare the first meta-gradient with what training does; see `diagnose`. If it is
            not to be trusted, and another estimator is, that one is taken.

    Raises:
        TypeError: a loss that does not take what it is called with.
        ValueError: data whose arrays differ in rows, a batch larger than there are rows, and what
            `metacontrast.check` finds.
        DivergedError, CollapsedError: see `meta_train`.

    Example: a penalty for each weight of a linear model, of which the last two are of noise.
        >>> import jax, jax.numpy as jnp, optax, metacontrast as mc
        >>> x = jax.random.normal(jax.random.key(0), (60, 4))
        >>> y = x[:, 0] - x[:, 1] + jax.random.normal(jax.random.key(1), (60,))
        >>> def train_loss(w, theta, batch):
        ...     return valid_loss(w, theta, batch) + jnp.exp(theta) @ w**2
        >>> def valid_loss(w, theta, batch):
        ...     return jnp.mean((batch[0] @ w - batch[1]) ** 2)
        >>> tuned = mc.tune(
        ...     train_loss, valid_loss, jnp.zeros(4), jnp.zeros(4),
        ...     train=(x[:20], y[:20]), valid=(x[20:40], y[20:40]), stop=(x[40:], y[40:]),
        ...     optimizer=optax.sgd(0.1), steps=100, meta_steps=20, progress=False,
        ... )
        >>> type(tuned.estimator).__name__, (tuned.theta < 0).tolist()[:2]
        ('Contrastive', [True, True])
        >>> bool(tuned.stop_loss < tuned.history[0]["stop_loss"])
        True
    """
    splits = checked_splits(train, valid, stop, batch_size, seed)
    own = (
        UserLoss("train_loss", train_loss, state is not None),
        UserLoss("valid_loss", valid_loss, state is not None),
    )
    task = Task(*own, params, state, *splits, batch_size)
    task.check(theta)
    run = Training(task, descend(optimizer, steps), jax.random.key(seed))
    choice = choose(run.at(theta), run.solver, estimator, diagnose)
    if progress:
        print(_told(choice), file=sys.stderr)
    trained = meta_train(
        run.problem, run.solver, choice.estimator, task.draw, theta,
        optax.adam(0.1) if meta_optimizer is None else meta_optimizer,
        steps=meta_steps, tasks=1, seed=seed, out=out, resume=resume, log_every=look_every,
        steps_per_dispatch=look_every, validate=lambda theta: {"loss": float(run(theta).stop_loss)},
        patience=patience, progress=progress, on_flag="warn", on_collapse="ignore", diagnose=False,
        callbacks=callbacks,
    )  # fmt: skip
    return _tuned(run, theta, trained, choice)


def _told(choice: Choice) -> str:
    lines = [f"estimator: {type(choice.estimator).__name__}, since {choice.why}"]
    lines += [] if choice.diagnosis is None else [f"at the start, {choice.diagnosis}"]
    return "\n".join(lines)


def _tuned(run: Training, theta: PyTree, trained: Trained, choice: Choice) -> Tuned:
    history = [{"step": 0, "stop_loss": float(run(theta).stop_loss)}]
    for line in trained.metrics:
        row = {"stop_loss": line["valid_loss"], "valid_loss": line["meta_loss"]}
        history.append({"step": line["step"]} | row)
    best = run(trained.best)
    return Tuned(
        trained.best, run.task.whole(best.phi), best.state, float(best.stop_loss),
        trained.best_step or 0, tuple(history), *choice, trained,
    )  # fmt: skip
