"""Backpropagation through training."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp

from .._diagnostics import free_diagnostics
from .._loss import Loss
from .._must import Count
from .._solver._base import Solver, State, advance, begin, start_of
from .._types import PyTree, Scalar, Step
from ._base import Estimator, MetaGradient, Starts


@dataclass(frozen=True)
class Unrolled(Estimator):
    """The exact gradient of what the solver did: backpropagation through all of its steps.

        d/d(theta, z) L_out(phi_T(theta, z), theta, z),   phi_T the solver's last iterate.

    With `init=lambda theta, task: theta` this is MAML (Finn, Abbeel, Levine, 2017). It needs
    second derivatives, memory that grows with the number of steps, and a solver that takes a fixed
    number of steps (`descend`, not `until_converged`).

    Args:
        truncate: go back through the last `truncate` steps only, as if what came before had not
            depended on theta and z (truncated backpropagation; Shaban, Cheng, Hatch, Boots, 2019).
            Then an init that is learned gets no gradient. At least as many as the steps: all.
        remat: keep every `sqrt(T)`-th of the T iterates and recompute those between when going
            back: memory grows as `sqrt(T)`, for one more forward pass (Chen, Xu, Zhang, Guestrin,
            2016). The gradient is the same.

    Raises:
        ValueError: `truncate` not a whole number of at least 1.
        TypeError: a solver that stops at a tolerance.

    Example:
        >>> import jax, jax.numpy as jnp, optax, metacontrast as mc
        >>> problem = mc.Problem(
        ...     init=lambda theta, task: theta,
        ...     inner=lambda phi, theta, task: 0.5 * (phi - task) ** 2,
        ...     outer=lambda phi, theta, task: 0.5 * phi**2,
        ... )
        >>> loss = mc.meta_loss(problem, mc.descend(optax.sgd(0.5), steps=1), mc.Unrolled())
        >>> float(jax.grad(loss)(jnp.array(0.0), jnp.array(2.0)))  # phi_1 = 1, d phi_1 = 1/2
        0.5
    """

    truncate: Count | None = None
    remat: bool = False
    by_z: ClassVar[bool] = True

    def value_and_grad(self, loss: Loss, solver: Solver, starts: Starts = None) -> MetaGradient:
        """The meta-gradient; its aux: inner, outer, residual."""
        require_fixed_steps(self, solver)

        def trained(theta: PyTree, z: PyTree) -> tuple[Scalar, State]:
            at = loss.at(theta, z)
            end = self._train(solver, at)
            return at.with_state(end.model).outer(end.phi), end

        (value, end), (by_theta, by_z) = back_through(self, solver, trained, loss.theta, loss.z)
        aux = free_diagnostics(loss.with_state(end.model), end.phi)
        return MetaGradient(value, by_theta, by_z, aux)

    def _train(self, solver: Solver, loss: Loss) -> State:
        skipped = max(solver.steps - (self.truncate or solver.steps), 0)
        # Stopping what goes in, not only what comes out, keeps JAX from differentiating it.
        fixed = replace(loss, theta=_stop(loss.theta), z=_stop(loss.z)) if skipped else loss
        state = begin(solver, fixed, start_of(fixed))
        if skipped:
            state = _stop(advance(solver, fixed, _stop(state), 0, skipped)[0])
        steps = solver.steps - skipped
        # Of one step there is nothing to keep between; and it may be a run that no loop can take.
        run = _advance_rematerialised if self.remat and steps > 1 else _advance
        return run(solver, loss, state, skipped, steps)


def require_fixed_steps(estimator: Estimator, solver: Solver) -> None:
    """Raise if the solver stops at a tolerance."""
    if solver.tol is not None:
        raise TypeError(
            f"solver: {type(estimator).__name__} goes back through a fixed number of steps, and "
            f"{solver!r} stops at a tolerance; use descend, or another estimator (Contrastive, "
            "Implicit)."
        )


def back_through(
    estimator: Estimator,
    solver: Solver,
    trained: Callable[..., tuple[Scalar, State]],
    *at: PyTree,
) -> tuple[tuple[Scalar, State], tuple[PyTree, ...]]:
    """The outer loss of what a solver learned, where that ended, and the gradient by `at`."""
    by_all = tuple(range(len(at)))
    try:
        return jax.value_and_grad(trained, by_all, has_aux=True, allow_int=True)(*at)
    except ValueError as error:
        if "Reverse-mode" not in str(error):
            raise
        raise TypeError(
            f"solver: {type(estimator).__name__} goes back through all that {solver!r} does, and "
            "that has a loop of no fixed number of turns (a line search, a while_loop); use "
            "descend with an optimiser that has none, or another estimator (Contrastive, Implicit)."
        ) from error


_stop = jax.lax.stop_gradient


def _advance(solver: Solver, loss: Loss, state: State, first: Step, steps: int) -> State:
    return advance(solver, loss, state, first, steps)[0]


def _advance_rematerialised(
    solver: Solver, loss: Loss, state: State, first: int, steps: int
) -> State:
    """The same, of which only the states between blocks of sqrt(steps) are kept."""
    step = lambda state, t: (_advance(solver, loss, state, t, 1), None)
    return scan_in_blocks(step, state, first + jnp.arange(steps))


def scan_in_blocks(
    step: Callable[[State, PyTree], tuple[State, None]], state: State, turns: PyTree
) -> State:
    """Where a scan ends of which only the starts of blocks of `sqrt(steps)` are kept."""
    steps = len(jax.tree.leaves(turns)[0])
    size = math.isqrt(steps)
    blocks, rest = divmod(steps, size)

    def block(state: State, turns: PyTree) -> tuple[State, None]:
        return jax.lax.scan(step, state, turns)[0], None

    # The steps that fill no block come first.
    if rest:
        state, _ = block(state, jax.tree.map(lambda x: x[:rest], turns))
    whole = jax.tree.map(lambda x: x[rest:].reshape(blocks, size, *x.shape[1:]), turns)
    return jax.lax.scan(jax.checkpoint(block, prevent_cse=False), state, whole)[0]
