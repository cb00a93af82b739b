"""Solvers by any optax optimiser, for a number of steps or until converged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from inspect import isfunction
from typing import Annotated, Any, TypeAlias

import jax
import optax

from .._loss import Loss
from .._must import Count, Tolerance
from .._precondition import quasi_newton, second_moments
from .._problem import InverseCurvature
from .._tree import are_alike, norm
from .._types import PyTree, Scalar, Step
from ._base import Solver, State

Value: TypeAlias = Callable[[PyTree], Scalar]


def _check_made(name: str, optimizer: Any) -> None:
    """Raise for optax' own functions, which would take theta for their learning rate."""
    if isfunction(optimizer) and optimizer.__module__.startswith("optax."):
        made = f"optax.{optimizer.__name__}"
        raise TypeError(f"{name}: must be an optimizer, not {made}; call it, as in {made}(1e-3).")


Optimizer: TypeAlias = Annotated[
    optax.GradientTransformation | Callable[[PyTree], optax.GradientTransformation], _check_made
]


def in_type_of(phi: PyTree, loss: Loss) -> Value:
    """The loss, whose value may be of theta's wider type, in that of phi, as line searches ask."""
    dtype = jax.numpy.result_type(*jax.tree.leaves(phi))
    return lambda phi: loss(phi).astype(dtype)


def value_and_slope(loss: Value, phi: PyTree) -> tuple[Scalar, PyTree]:
    """`jax.value_and_grad(loss)(phi)`; the complex derivative where phi is complex."""
    holomorphic = any(jax.numpy.iscomplexobj(leaf) for leaf in jax.tree.leaves(phi))
    return jax.value_and_grad(loss, holomorphic=holomorphic)(phi)


@dataclass(frozen=True)
class Descend(Solver):
    """What `descend` and `until_converged` return: steps of an optax optimiser."""

    optimizer: Optimizer = field(repr=False)

    def gradient(self, loss: Value, phi: PyTree, t: Step, moments: PyTree) -> tuple[Scalar, PyTree]:
        """The value and the gradient along which step t goes."""
        return value_and_slope(loss, phi)

    def _optimizer(self, loss: Loss) -> optax.GradientTransformation:
        """The optimiser, where theta says which."""
        given = self.optimizer
        return given if isinstance(given, optax.GradientTransformation) else given(loss.theta)

    def init(self, loss: Loss, phi: PyTree, memory: PyTree = None) -> State:
        """The optimiser's own state; with a tolerance also the gradient, which is tested first."""
        moments = self._optimizer(loss).init(phi) if memory is None else memory[0]
        return self._state(loss, phi, moments, 0)

    def step(self, loss: Loss, state: State, t: Step) -> State:
        """One update. With a tolerance the gradient is that which was tested."""
        (moments, known), value_fn = state.memory, in_type_of(state.phi, loss)
        value, slope = self.gradient(value_fn, state.phi, t, moments) if known is None else known
        # Optimisers with a line search ask for more than the gradient; the others ignore it.
        updates, moments = optax.with_extra_args_support(self._optimizer(loss)).update(
            slope, moments, state.phi, value=value, grad=slope, value_fn=value_fn
        )
        return self._state(loss, optax.apply_updates(state.phi, updates), moments, t + 1)

    def inverse_curvature(self, state: State) -> InverseCurvature | None:
        """By the second moments, of an optimiser that is an Adam of all of phi."""
        adams = optax.tree.get_all_with_path(state.memory[0], "ScaleByAdamState")
        found = [adam.nu for _, adam in adams]
        alike = len(found) == 1 and are_alike(found[0], state.phi)
        return second_moments(found[0]) if alike else None

    def _state(self, loss: Loss, phi: PyTree, moments: PyTree, t: Step) -> State:
        if self.tol is None:
            return State(phi, (moments, None))
        known = self.gradient(in_type_of(phi, loss), phi, t, moments)
        return State(phi, (moments, known), norm(known[1]))


def descend(optimizer: Optimizer, steps: Count) -> Solver:
    """A fixed number of steps of any optax optimiser.

    Full-batch, or on one random view a step where the problem samples. Differentiable (a `scan`),
    so it can be unrolled.

    Args:
        optimizer: for example `optax.adam(1e-2)`; also one that searches a line. Or a function
            `theta -> optimizer`, whose numbers are learned: `lambda theta:
            optax.adam(jnp.exp(theta.log_rate))`, by an estimator that sees them (`Trajectory`,
            `Unrolled`, `Evolution`).
        steps: how many, at least 1.
    """
    return Descend(optimizer, steps=steps, holomorphic=True, carries=True)


def until_converged(optimizer: Optimizer, tol: Tolerance, max_steps: Count = 10_000) -> Solver:
    """Steps of any optax optimiser, on all data, until the gradient's norm is at most `tol`.

    A `while_loop`: it costs what the task needs, and cannot be unrolled. Under `vmap` all tasks
    run until the slowest one has converged, and those that have are left where they are.

    Args:
        optimizer: for example `optax.adam(1e-2)`.
        tol: on the Euclidean norm of `dL/dphi`, over all leaves; positive.
        max_steps: stop here in any case; the solution then says `converged=False`.
    """
    return Descend(optimizer, steps=max_steps, tol=tol, holomorphic=True, carries=True)


@dataclass(frozen=True)
class LBFGS(Descend):
    """What `lbfgs` returns."""

    pairs: int

    def gradient(self, loss: Value, phi: PyTree, t: Step, moments: PyTree) -> tuple[Scalar, PyTree]:
        """What the line search left in its state of the loss where it stopped, if it did."""
        return optax.value_and_grad_from_state(loss)(phi, state=moments)

    def inverse_curvature(self, state: State) -> InverseCurvature:
        """By the steps that it keeps."""
        moments: optax.ScaleByLBFGSState = state.memory[0][0]
        newest = (moments.count - 2) % self.pairs  # of which the last count is the next one's
        return quasi_newton(moments.diff_params_memory, moments.diff_updates_memory, newest)


def lbfgs(tol: Tolerance, max_steps: Count = 200, pairs: Count = 10) -> Solver:
    """Limited-memory BFGS with a zoom line search, `optax.lbfgs`, on all data until converged.

    Each phase starts with no memory of the curvature, because that of another loss would mislead
    it. Under `vmap` all tasks run until the slowest one has converged.

    Args:
        tol: on the Euclidean norm of `dL/dphi`; positive. Below about the square root of the
            type's precision no line search can see the loss fall, and `max_steps` ends the run.
        max_steps: at most; the solution then says `converged=False`.
        pairs: of steps and gradients that are kept.

    Reference: Liu and Nocedal, 1989.

    Example:
        >>> import jax.numpy as jnp
        >>> loss = lambda x: jnp.sum((x**2 - 2.0) ** 2)
        >>> lbfgs(1e-4)(loss, jnp.array([1.0, 3.0])).phi.round(3).tolist()
        [1.414..., 1.414...]
    """
    return LBFGS(optax.lbfgs(memory_size=pairs), pairs, steps=max_steps, tol=tol)
