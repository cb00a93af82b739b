"""Meta-steps: the mean meta-gradient of freshly drawn tasks, and the update of theta."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from .._estimator._base import Phases
from .._tree import dot
from .._types import PyTree, Scalar, Step
from ._divergence import trouble
from ._flagged import Seen, next_streak
from ._reduce import first_row, sum_over_tasks
from ._setup import MetaStep as MetaStep
from ._state import MetaState
from ._task import Values, task_gradient

Metrics: TypeAlias = dict[str, jax.Array]
# `(state, t, n) -> (state, metrics)`: the `n` meta-steps that follow the first `t`, which donates
# the state. Each of the metrics is an array with one number a meta-step; "flags" and "followed"
# with one a flag.
Dispatch: TypeAlias = Callable[[MetaState, int, int], tuple[MetaState, Metrics]]


class Mean(NamedTuple):
    """Means over the tasks that did not diverge, of which there are `n`; all flags; the phases."""

    n: Int[Array, ""]
    values: Values
    seen: Seen
    phases: Phases | None


def mean_gradient(run: MetaStep) -> Callable[[MetaState, PyTree, Step], Mean]:
    """`(state, theta, t) -> Mean`: the meta-gradient of meta-step `t` at theta."""
    one = task_gradient(run)

    def mean(state: MetaState, theta: PyTree, t: Step) -> Mean:
        rows, phases = run.keys(t), state.phases
        if phases is None:
            batch = run.task_batch_size or run.tasks
            counted = lambda *row: one(state, theta, t, *row)[:3]
            n, total, seen = sum_over_tasks(counted, rows, batch, run.layout)
        else:
            learned, total, seen, phases = one(state, theta, t, *first_row(rows))
            n = learned.astype(int)
        return Mean(n, jax.tree.map(lambda x: x / jnp.maximum(n, 1), total), seen, phases)

    return mean


def compile_dispatch(run: MetaStep) -> Dispatch:
    """Several meta-steps in one dispatch, from which tasks that diverge are left out."""
    update = optax.with_extra_args_support(run.optimizer).update
    mean_at = mean_gradient(run)

    def step(state: MetaState, t: jax.Array) -> tuple[MetaState, Metrics]:
        mean = mean_at(state, state.theta, t)
        value, aux, by_theta, size = mean.values
        value_fn = partial(_value, lambda theta: mean_at(state, theta, t))
        updates, moments = update(
            by_theta, state.moments, state.theta, value=value, grad=by_theta, value_fn=value_fn
        )
        if state.rollbacks is not None:
            factor = 0.5**state.rollbacks
            updates = jax.tree.map(lambda x: x * factor.astype(x.dtype), updates)
        theta = optax.apply_updates(state.theta, updates)
        moved = MetaState(
            theta,
            moments,
            _updated_average(state.average, theta, t, run.average_from),
            mean.phases,
            jnp.maximum(state.usual, jnp.where(jnp.isfinite(size), size, 0)),
            next_streak(state.streak, mean.seen.stopping, run.tasks),
            state.rollbacks,
        )
        metrics = aux | {"meta_loss": value, "diverged": run.tasks - mean.n} | _flags(mean.seen)
        metrics["streak"] = moved.streak
        metrics["trouble"] = trouble(mean.n, theta, state.moments, moments)
        return run.layout.shard_parameters(moved), run.layout.replicate(metrics)

    @partial(jax.jit, static_argnums=2, donate_argnums=0)
    def dispatch(state: MetaState, t: int, n: int) -> tuple[MetaState, Metrics]:
        return jax.lax.scan(step, state, t + jnp.arange(n))

    return dispatch


def _value(mean_at: Callable[[PyTree], Mean], theta: PyTree) -> Scalar:
    """What a line search asks for: the meta-loss of the same tasks, with its gradient."""
    fixed = jax.lax.stop_gradient(theta)
    values = mean_at(fixed).values
    return values.value + dot(values.by_theta, jax.tree.map(jnp.subtract, theta, fixed))


def _flags(seen: Seen) -> Metrics:
    return {"flagged": seen.tasks, "flags": seen.flags, "followed": seen.followed}


def _updated_average(average: PyTree, theta: PyTree, t: jax.Array, first: int | None) -> PyTree:
    """The mean of the thetas from meta-step `first` (1 is the first one) to that after `t`."""
    if first is None:
        return None
    n = t + 2 - first  # how many thetas the average is of; before that it follows theta
    return jax.tree.map(lambda a, x: jnp.where(n > 1, a + (x - a) / n, x), average, theta)
