"""The meta-gradient of one task of a meta-step, and whether it is to be trusted."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._estimator._base import Phases
from .._features import vjp_features
from .._flags import Flags
from .._loss import Loss
from .._solver._base import start_of
from .._tree import is_finite
from .._types import Aux, Key, PyTree, Scalar, Step
from ._divergence import is_far_above, is_runaway, largest, start_and_scale
from ._flagged import Seen, seen
from ._setup import MetaStep
from ._state import MetaState

# Diagnostics and flags that cost no gradient: a warm start, whose phases may be a step long, has no
# others.
CHEAP = ("inner", "outer", "nudged_inner", "nudged_outer", "distance")
CHEAP_FLAGS = ("rounded", "nonfinite")
# The phases of a long task are judged every so many meta-steps: it takes a few losses more.
JUDGED_EVERY = 10


class Values(NamedTuple):
    """What of a task enters the means: its meta-loss, diagnostics, gradient and its size."""

    value: Scalar
    aux: Aux
    by_theta: PyTree
    size: Float[Array, ""]


class OfTask(NamedTuple):
    """Of one task: whether it was learned, what then counts, its flags, and its phases' ends."""

    is_learned: Bool[Array, ""]
    values: Values
    seen: Seen
    phases: Phases | None


def task_gradient(run: MetaStep) -> Callable[..., OfTask]:
    """`(state, theta, t, drawing, learning) -> OfTask`, of one task at theta."""
    gradient_at, problem = run.gradient_at(), run.layout.shard_phi(run.problem)

    def one(state: MetaState, theta: PyTree, t: Step, drawing: Key, learning: Key) -> OfTask:
        inputs, pull_back = vjp_features(run.features, theta, run.sample_task(drawing))
        meta = gradient_at(t)(*inputs, learning, state.phases)
        by_theta, aux, ends = pull_back(meta), meta.aux, None
        diverged = lambda: _is_diverged(run, Loss(problem, *inputs, learning), aux)
        if state.phases is None:
            is_bad = diverged()
        else:
            flags = Flags(**{name: getattr(aux["flags"], name) for name in CHEAP_FLAGS})
            aux = {k: x for k, x in aux.items() if k in CHEAP} | {"flags": flags}
            ends = run.starts(meta)
            never = lambda: jnp.zeros((), bool)
            is_bad = jax.lax.cond(jnp.asarray(t) % JUDGED_EVERY == 0, diverged, never)
        is_bad |= ~is_finite((meta.value, by_theta)) | is_runaway(by_theta, state.usual)
        values = Values(meta.value, _numbers(aux), by_theta, largest(by_theta))
        return OfTask(~is_bad, values, seen(aux, ~is_bad), ends)

    return one


def _is_diverged(run: MetaStep, loss: Loss, aux: Aux) -> Bool[Array, ""]:
    """Whether the inner loss is far above that of an untrained learner of this task."""
    if "inner" not in aux:
        return jnp.zeros((), bool)
    inner = loss.with_state(start_of(loss).model).inner
    place = run.layout.shard_parameters
    first, scale = start_and_scale(inner, lambda: start_of(loss).phi, place)
    return is_far_above(first, aux["inner"], scale)


def _numbers(aux: Aux) -> Aux:
    """One number for each diagnostic, which may be a list (one entry a nudged phase)."""
    mean = lambda x: jnp.mean(jnp.stack([jnp.mean(leaf) for leaf in jax.tree.leaves(x)]))
    shown = {name: x for name, x in aux.items() if name != "flags" and jax.tree.leaves(x)}
    return {name: mean(x) for name, x in shown.items()}
