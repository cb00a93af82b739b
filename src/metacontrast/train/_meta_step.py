"""Meta-steps: the mean meta-gradient of freshly drawn tasks, and the update of theta."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Int

from .._check import check, check_floating
from .._estimator._base import Estimator, MetaGradient, Phases
from .._loss import Loss
from .._meta_loss import meta_gradient
from .._problem import Problem
from .._solver._base import Solver
from .._tree import dot
from .._types import Aux, Key, PyTree, Scalar, Step
from ._divergence import is_far_above, is_finite, trouble
from ._features import Features, problem_inputs, vjp_features
from ._layout import Layout
from ._reduce import first_row, sum_over_tasks
from ._state import MetaState

SampleTask: TypeAlias = Callable[[Key], PyTree]
WarmStart: TypeAlias = Literal["phases", "free"]
Metrics: TypeAlias = dict[str, jax.Array]
# `(state, t, n) -> (state, metrics)`: the `n` meta-steps that follow the first `t`, which donates
# the state. Each of the metrics is an array with one number a meta-step.
Dispatch: TypeAlias = Callable[[MetaState, int, int], tuple[MetaState, Metrics]]

OfTask: TypeAlias = tuple[Bool[Array, ""], tuple[Scalar, Aux, PyTree], Phases | None]

# Diagnostics that cost no gradient; in a warm start, whose phases may be a step long, no others.
CHEAP = ("inner", "outer", "nudged_inner", "nudged_outer", "distance")


@dataclass(frozen=True, eq=False)
class MetaStep:
    """What a meta-step does; the arguments of `meta_train` of these names."""

    problem: Problem
    solver: Solver
    estimator: Estimator | Callable[[Step], Estimator]
    sample_task: SampleTask
    optimizer: optax.GradientTransformation
    tasks: int
    seed: int
    average_from: int | None = None
    task_batch_size: int | None = None
    features: Features | None = None
    warm_start: WarmStart | None = None
    layout: Layout = field(default_factory=Layout)

    def keys(self, t: Step) -> tuple[Key, Key]:
        """The keys of meta-step `t`, of (seed, t) alone: to draw each task, and to learn each."""
        drawing, learning = jax.random.split(jax.random.fold_in(jax.random.key(self.seed), t))
        return jax.random.split(drawing, self.tasks), jax.random.split(learning, self.tasks)

    def estimator_at(self, t: Step) -> Estimator:
        """The estimator of meta-step `t`."""
        return self.estimator if isinstance(self.estimator, Estimator) else self.estimator(t)

    def gradient_at(self) -> Callable[[Step], Callable[..., MetaGradient]]:
        """Of each meta-step, what gives the meta-gradient of a task: built once, if it can be."""
        problem = self.layout.shard_phi(self.problem)
        build = partial(meta_gradient, problem, self.solver, by_z=self.features is not None)
        if isinstance(self.estimator, Estimator):
            fixed = build(self.estimator)
            return lambda t: fixed
        return lambda t: build(self.estimator_at(t))

    def starts(self, meta: MetaGradient) -> Phases:
        """What the phases of the next meta-gradient go on from."""
        assert meta.phases is not None  # as of every estimator that says warm_start
        return Phases(meta.phases.free) if self.warm_start == "free" else meta.phases

    def first_phases(self, theta: PyTree) -> Phases | None:
        """Those of the first task, started anew; None if every task's are."""
        if self.warm_start is None:
            return None
        drawing, learning = first_row(self.keys(0))
        inputs = problem_inputs(self.features, theta, self.sample_task(drawing))
        return self.starts(self.gradient_at()(0)(*inputs, learning))

    def check(self, theta: PyTree) -> None:
        """Raise, before compute is spent, where tasks cannot be learned; see `check`."""
        estimator = self.estimator_at(0)
        if not isinstance(estimator, Estimator):
            raise TypeError(
                "estimator: must be an Estimator, or a function from the number of the meta-step "
                f"to one, not one to {estimator!r}."
            )
        if self.warm_start is not None and not estimator.warm_start:
            raise TypeError(
                f"warm_start: {estimator!r} looks at where learning started and cannot go on from "
                "earlier phases; use Contrastive or Implicit, or leave warm_start out."
            )
        self.gradient_at()(0)  # which refuses features where there is no gradient by them
        check_floating("theta", theta)
        task = jax.jit(self.sample_task)(self.keys(0)[0][0])
        inputs = (theta, task) if self.features is None else jax.jit(self.features)(theta, task)
        check(self.problem, *inputs)


class Mean(NamedTuple):
    """Means over the tasks that did not diverge, of which there are `n`; and the phases."""

    n: Int[Array, ""]
    value: Scalar
    aux: Aux
    by_theta: PyTree
    phases: Phases | None


def task_gradient(run: MetaStep) -> Callable[..., OfTask]:
    """Of one task: whether it was learned; value, aux and gradient; and where its phases ended.

    `(theta, t, phases, drawing, learning)`, of which phases are where its own start, if not anew.
    """
    gradient_at, problem = run.gradient_at(), run.layout.shard_phi(run.problem)

    def one(theta: PyTree, t: Step, phases: Phases | None, drawing: Key, learning: Key) -> OfTask:
        inputs, pull_back = vjp_features(run.features, theta, run.sample_task(drawing))
        meta = gradient_at(t)(*inputs, learning, phases)
        by_theta, aux, ends = pull_back(meta), meta.aux, None
        learned = is_finite((meta.value, by_theta))
        if phases is None:
            first = Loss(problem, *inputs).inner(problem.init(*inputs))
            learned &= ~is_far_above(first, aux.get("inner", first))
        else:  # phases that go on and on come to be not finite by themselves, if they diverge
            aux, ends = {k: x for k, x in aux.items() if k in CHEAP}, run.starts(meta)
        return learned, (meta.value, _numbers(aux), by_theta), ends

    return one


def mean_gradient(run: MetaStep) -> Callable[[PyTree, Step, Phases | None], Mean]:
    """`(theta, t, phases) -> Mean`: the meta-gradient of meta-step `t` at theta."""
    one = task_gradient(run)

    def mean(theta: PyTree, t: Step, phases: Phases | None) -> Mean:
        rows = run.keys(t)
        if phases is None:
            batch = run.task_batch_size or run.tasks
            counted = lambda *row: one(theta, t, None, *row)[:2]
            n, total = sum_over_tasks(counted, rows, batch, run.layout)
        else:
            learned, total, phases = one(theta, t, phases, *first_row(rows))
            n = learned.astype(int)
        value, aux, by_theta = jax.tree.map(lambda x: x / jnp.maximum(n, 1), total)
        return Mean(n, value, aux, by_theta, phases)

    return mean


def compile_dispatch(run: MetaStep) -> Dispatch:
    """Several meta-steps in one dispatch, from which tasks that diverge are left out."""
    update = optax.with_extra_args_support(run.optimizer).update
    mean_at = mean_gradient(run)

    def step(state: MetaState, t: jax.Array) -> tuple[MetaState, Metrics]:
        mean = mean_at(state.theta, t, state.phases)

        value_fn = partial(_value, lambda theta: mean_at(theta, t, state.phases))
        updates, moments = update(
            mean.by_theta, state.moments, state.theta,
            value=mean.value, grad=mean.by_theta, value_fn=value_fn,
        )  # fmt: skip
        theta = optax.apply_updates(state.theta, updates)
        average = _updated_average(state.average, theta, t, run.average_from)
        metrics = mean.aux | {"meta_loss": mean.value, "diverged": run.tasks - mean.n}
        metrics["trouble"] = trouble(mean.n, theta)
        moved = MetaState(theta, moments, average, mean.phases)
        return run.layout.shard_parameters(moved), run.layout.replicate(metrics)

    @partial(jax.jit, static_argnums=2, donate_argnums=0)
    def dispatch(state: MetaState, t: int, n: int) -> tuple[MetaState, Metrics]:
        return jax.lax.scan(step, state, t + jnp.arange(n))

    return dispatch


def _value(mean_at: Callable[[PyTree], Mean], theta: PyTree) -> Scalar:
    """What a line search asks for: the meta-loss of the same tasks, with its gradient."""
    fixed = jax.lax.stop_gradient(theta)
    mean = mean_at(fixed)
    return mean.value + dot(mean.by_theta, jax.tree.map(jnp.subtract, theta, fixed))


def _numbers(aux: Aux) -> Aux:
    """One number for each diagnostic, which may be a list (one entry a nudged phase)."""
    mean = lambda x: jnp.mean(jnp.stack([jnp.mean(leaf) for leaf in jax.tree.leaves(x)]))
    return {name: mean(x) for name, x in aux.items() if jax.tree.leaves(x)}


def _updated_average(average: PyTree, theta: PyTree, t: jax.Array, first: int | None) -> PyTree:
    """The mean of the thetas from meta-step `first` (1 is the first one) to that after `t`."""
    if first is None:
        return None
    n = t + 2 - first  # how many thetas the average is of; before that it follows theta
    return jax.tree.map(lambda a, x: jnp.where(n > 1, a + (x - a) / n, x), average, theta)
