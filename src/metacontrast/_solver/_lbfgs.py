"""Limited-memory BFGS."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import optax
from jaxtyping import Array, Int

from .._loss import Loss
from .._types import PyTree
from ._base import Solver, State, check_positive_int, check_tol


@dataclass(frozen=True)
class LBFGS(Solver):
    """What `lbfgs` returns."""

    pairs: int

    @property
    def _optimizer(self) -> optax.GradientTransformationExtraArgs:
        return optax.lbfgs(memory_size=self.pairs)

    def init(self, loss: Loss, phi: PyTree, memory: PyTree = None) -> State:
        """No pairs yet: those of another loss would mislead it."""
        return State(phi, self._optimizer.init(phi), optax.tree.norm(jax.grad(loss)(phi)))

    def step(self, loss: Loss, state: State, t: Int[Array, ""] | int) -> State:
        """A direction, and a zoom line search along it."""
        # The search has evaluated the loss where it stopped, and its state holds the gradient.
        value, slope = optax.value_and_grad_from_state(loss)(state.phi, state=state.memory)
        updates, memory = self._optimizer.update(
            slope, state.memory, state.phi, value=value, grad=slope, value_fn=loss
        )
        residual = optax.tree.norm(optax.tree.get(memory, "grad"))
        return State(optax.apply_updates(state.phi, updates), memory, residual)


def lbfgs(tol: float, max_steps: int = 200, pairs: int = 10) -> Solver:
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
    check_tol(tol, max_steps)
    check_positive_int("pairs", pairs)
    return LBFGS(pairs, steps=max_steps, tol=tol)
