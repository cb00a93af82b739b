"""The augmented loss of one task, `L = L_in + nudge`: what a solver minimises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp

from ._problem import InverseCurvature, LossFunction, Problem, Split, objective
from ._tree import dot
from ._types import Arrays, Key, PyTree, Scalar, Step


@dataclass(frozen=True, eq=False)
class Loss:
    """The loss of one task, free (`L_in`) or nudged (`L_in + nudge`), as a function of phi.

    Args:
        problem: what is learned.
        theta: the meta-parameters.
        z: the task.
        key: for problems that sample.
        nudge: what is mixed into the inner loss. Default: nothing, the free phase.
        by_z: whether gradients by z are wanted. If not, the problem need not be differentiable by
            it.
        state: of the model, where the problem has one.
        is_view: whether `z` is a view of a task, and not a task.
    """

    problem: Problem
    theta: PyTree
    z: PyTree
    key: Key | None = None
    nudge: Nudge | None = None
    by_z: bool = True
    state: PyTree = None
    is_view: bool = False

    def __call__(self, phi: Arrays) -> Scalar:
        """The augmented loss on all of `z`."""
        inner = self.inner(phi)
        # The free phase must not pay for a test loss that it multiplies by zero.
        return inner if self.nudge is None else inner + self.nudge(self, phi)

    def inner(self, phi: Arrays) -> Scalar:
        """`L_in` alone; of a whole task the mean over its views, where the problem says so."""
        views = self.problem.views
        if views is None or self.is_view:
            return self._taken(self.problem.inner, phi)[0]
        # One after the other, and once more on the way back: one view's memory.
        one = jax.checkpoint(lambda t: self.view(t).inner(phi))
        return jnp.mean(jax.lax.map(one, jnp.arange(views)))

    def outer(self, phi: Arrays) -> Scalar:
        """`L_out` alone."""
        return self._taken(self.problem.outer, phi)[0]

    def next_state(self, phi: PyTree) -> PyTree:
        """The state of the model after the inner loss has been taken at phi."""
        return self._taken(self.problem.inner, phi)[1]

    def _taken(self, function: LossFunction, phi: PyTree) -> tuple[Scalar, PyTree]:
        """The value of a loss, and the state that it leaves."""
        if self.problem.state is None:
            return function(phi, self.theta, self.z), None
        result: PyTree = function(phi, self.theta, self.z, self.state)
        return result if isinstance(result, tuple) else (result, self.state)

    def with_state(self, state: PyTree) -> Loss:
        """The same loss of a model in this state."""
        return self if self.problem.state is None else replace(self, state=state)

    def nudged(self, nudge: Nudge) -> Loss:
        """The same loss, nudged, with the same random numbers."""
        return replace(self, nudge=nudge)

    def at(self, theta: PyTree, z: PyTree) -> Loss:
        """The same loss of another theta and z, by which it is to be differentiated."""
        return replace(self, theta=theta, z=z if self.by_z else jax.lax.stop_gradient(z))

    @property
    def samples(self) -> bool:
        """Whether the problem draws views of its data."""
        return self.problem.sample is not None

    def view(self, step: Step) -> Loss:
        """The loss on the view that `step` of every phase draws; itself if there are no views.

        Its `key` draws whatever noise the solver itself needs at this step.
        """
        if self.key is None:
            if self.samples:
                raise ValueError(
                    "key: this problem samples (Problem(sample=...)), so its learner is "
                    "stochastic; pass a jax.random.key as the argument after the task."
                )
            return self
        draw, rest = jax.random.split(jax.random.fold_in(self.key, step))
        sample = self.problem.sample
        z = self.z if sample is None else sample(self.z, draw)
        return replace(self, z=z, key=rest, is_view=True)

    def split(self, phi: PyTree) -> Split | None:
        """The augmented loss around phi; None if a part of it is not of that form."""
        inner = objective(self.problem.inner).split(phi, self.theta, self.z)
        added = Split() if self.nudge is None else self.nudge.split(self, phi)
        return None if inner is None or added is None else inner.plus(added)

    def inverse_curvature(self) -> InverseCurvature | None:
        """`(H + damping)^-1` with H the curvature of `L_in`, if that knows it, and the nudge's own.

        What an outer nudge adds to the curvature is left out.
        """
        damping = None if self.nudge is None else self.nudge.damping
        return objective(self.problem.inner).inverse_curvature(self.theta, self.z, damping or 0.0)


class Nudge(ABC):
    """What is added to the inner loss in a nudged phase. Its `beta` is how much of it."""

    beta: Scalar | complex
    replays: ClassVar[bool]  # whether nudged phases see the data of the outer loss
    damping: float | None = None  # what it adds to the curvature at every phi

    @abstractmethod
    def __call__(self, loss: Loss, phi: PyTree) -> Scalar:
        """What is added at phi."""

    @abstractmethod
    def by_beta(self, loss: Loss, phi: PyTree) -> PyTree:
        """How its slope by phi changes with beta."""

    @abstractmethod
    def split(self, loss: Loss, phi: PyTree) -> Split | None:
        """The same as squares and a rest, see `Objective.split`."""

    def with_beta(self, beta: Scalar | complex) -> Nudge:
        """The same, of another size."""
        return replace(self, beta=beta)  # type: ignore[type-var]

    def with_cache(self, loss: Loss) -> Nudge:
        """The same, with what it takes of this loss kept."""
        return self

    def without_cache(self) -> Nudge:
        """The same, for a loss of other derivatives: nothing is kept that one loss gave."""
        return self


@dataclass(frozen=True, eq=False)
class OuterNudge(Nudge):
    """`beta L_out(phi, theta, z)`: the nudge of the paper."""

    beta: Scalar | complex
    replays: ClassVar[bool] = True

    def __call__(self, loss: Loss, phi: PyTree) -> Scalar:
        """What is added at phi."""
        return self.beta * loss.outer(phi)

    def by_beta(self, loss: Loss, phi: PyTree) -> PyTree:
        """The slope of the outer loss."""
        return jax.grad(loss.outer)(phi)

    def split(self, loss: Loss, phi: PyTree) -> Split | None:
        """The outer loss's own split, times beta."""
        outer = objective(loss.problem.outer).split(phi, loss.theta, loss.z)
        return None if outer is None else Split().plus(outer, self.beta)


@dataclass(frozen=True, eq=False)
class LinearNudge(Nudge):
    """`beta <direction, phi>`: the outer loss taken as straight, so that no test data are seen.

    With `damping` it also makes `phi_0` a stationary point of the inner loss, by

        - <dL_in/dphi(phi_0), phi - phi_0> + damping/2 |phi - phi_0|^2,

    which takes out the slope that a solver left when it stopped early.

    Args:
        beta: the nudge.
        direction: of phi's structure, of length one.
        phi_0: where the free phase ended.
        damping: at least 0; None leaves the slope as it is.
        slope: of `L_in` at `phi_0` on all data; None if each view has its own.
    """

    beta: Scalar | complex
    direction: PyTree
    phi_0: PyTree = None
    damping: float | None = None
    slope: PyTree = None
    replays: ClassVar[bool] = False

    def __call__(self, loss: Loss, phi: PyTree) -> Scalar:
        """What is added at phi."""
        straight = self.beta * dot(self.direction, phi)
        if self.damping is None:
            return straight
        way = jax.tree.map(jnp.subtract, phi, self.phi_0)
        return straight - dot(self._slope(loss), way) + self.damping / 2 * dot(way, way)

    def by_beta(self, loss: Loss, phi: PyTree) -> PyTree:
        """The direction."""
        return self.direction

    def _slope(self, loss: Loss) -> PyTree:
        if self.slope is not None:
            return self.slope
        fixed = jax.lax.stop_gradient((loss.theta, loss.z))  # no second derivatives by theta
        return jax.grad(loss.at(*fixed).inner)(self.phi_0)

    def split(self, loss: Loss, phi: PyTree) -> Split:
        """A rest, which bends as `damping` says."""
        if self.damping is None:
            return Split((), jax.tree.map(lambda v: self.beta * v, self.direction))
        half = jax.tree.map(lambda p, d=self.damping: jnp.full_like(p, d / 2), phi)
        return Split((), jax.grad(partial(self, loss))(phi), half)

    def with_cache(self, loss: Loss) -> Nudge:
        """With the slope at `phi_0`, on all data."""
        return self if self.damping is None else replace(self, slope=self._slope(loss))

    def without_cache(self) -> Nudge:
        """Without the slope at `phi_0`, which each loss that it is added to then takes itself."""
        return replace(self, slope=None)


def as_loss(loss: Loss | Callable[[PyTree], Scalar]) -> Loss:
    """A `Loss` as it is; any other function of phi as the inner loss of a problem of its own."""
    if isinstance(loss, Loss):
        return loss
    inner = lambda phi, theta, z: loss(phi)
    return Loss(
        Problem(lambda theta, z: None, inner, lambda phi, theta, z: jnp.zeros(())), None, None
    )
