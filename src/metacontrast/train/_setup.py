"""What a meta-step does, checked before it is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, TypeAlias

import jax
import optax

from .._check import check
from .._estimator._base import Estimator, MetaGradient, Phases
from .._features import Features, problem_inputs
from .._leaves import check_floating
from .._meta_loss import meta_gradient
from .._problem import Problem
from .._solver._base import Solver
from .._types import Key, PyTree, Step
from ._layout import Layout
from ._reduce import first_row

SampleTask: TypeAlias = Callable[[Key], PyTree]
WarmStart: TypeAlias = Literal["phases", "free"]


@dataclass(frozen=True, eq=False)
class MetaStep:
    """What a meta-step does; the arguments of `meta_train` of these names.

    With `rolls_back` its updates are halved as often as the run went back to its best look.
    """

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
    rolls_back: bool = False

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
