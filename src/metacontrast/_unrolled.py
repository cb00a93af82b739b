"""Backpropagation through training."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import jax

from ._check import shapes
from ._diagnostics import Diagnostics, measured
from ._problem import Loss, Problem, PyTree
from ._solve import Solver, positive, settle


@dataclass(frozen=True)
class Unrolled:
    """The exact gradient of what the solver did: backpropagation through all of its steps.

        d/dtheta L_out(phi_T(theta), theta),   phi_T the solver's last iterate.

    With `init=lambda theta, task: theta` this is MAML (Finn, Abbeel, Levine, 2017). It needs
    second derivatives, memory that grows with the number of steps, and a solver that JAX can
    differentiate in reverse (`descend`, not `until_converged`).

    Args:
        truncate: go back through the last `truncate` steps only, as if what came before had not
            depended on theta (truncated backpropagation; Shaban, Cheng, Hatch, Boots, 2019). Then
            an init that is learned gets no gradient. At least as many as the steps: all of them.
        remat: keep every `sqrt(T)`-th of the T iterates and recompute those between when going
            back: memory grows as `sqrt(T)`, for one more forward pass (Chen, Xu, Zhang, Guestrin,
            2016). The gradient is the same.

    Raises:
        ValueError: `truncate` not a whole number of at least 1.
        TypeError: `truncate` or `remat` with a solver that cannot be run in parts, as `descend`
            can: one without `steps` and `part(first, steps)`.

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

    truncate: int | None = None
    remat: bool = False

    def __post_init__(self) -> None:
        if self.truncate is not None:
            positive("truncate", self.truncate)

    def value_and_grad(
        self,
        problem: Problem,
        solve: Solver,
        theta: PyTree,
        task: PyTree,
        key: jax.Array | None = None,
    ) -> tuple[tuple[jax.Array, Diagnostics], PyTree]:
        """`((L_out(phi_T), diagnostics), meta-gradient)`; diagnostics: inner, outer, residual."""
        shapes(problem, theta, task)

        def trained(theta: PyTree) -> tuple[jax.Array, Diagnostics]:
            loss = problem.loss(theta, task, key=key)
            phi = self._train(solve, loss, problem.init(theta, task))
            return loss.outer(phi), jax.lax.stop_gradient(measured(loss, phi))

        return jax.value_and_grad(trained, has_aux=True)(theta)

    def _train(self, solve: Solver, loss: Loss, phi: PyTree) -> PyTree:
        if self.truncate is None and not self.remat:
            return settle(solve, loss, phi).phi
        steps = _steps(solve)
        skipped = max(steps - (self.truncate or steps), 0)
        state = None
        if skipped:
            # Stopping what goes in, not only what comes out, keeps JAX from differentiating it.
            fixed = replace(loss, theta=_stopped(loss.theta), z=_stopped(loss.z))
            phi, state = _stopped(_run(solve, fixed, 0, skipped, _stopped(phi), None))
        run = _run_rematerialised if self.remat else _run
        return run(solve, loss, skipped, steps - skipped, phi, state)[0]


_stopped = jax.lax.stop_gradient


def _steps(solve: Any) -> int:
    if not (hasattr(solve, "part") and hasattr(solve, "steps")):
        raise TypeError(
            "solve: truncate and remat need a solver that can be run in parts; use descend, or "
            "give yours `steps` and `part(first, steps)`, the solver of those steps alone."
        )
    return int(solve.steps)


def _run(solve: Any, loss: Loss, first: Any, steps: int, phi: PyTree, state: PyTree) -> Any:
    found = settle(solve.part(first, steps), loss, phi, state)
    return found.phi, found.state


def _run_rematerialised(
    solve: Any, loss: Loss, first: int, steps: int, phi: PyTree, state: PyTree
) -> Any:
    """The same as `_run`, of which only the iterates between blocks of sqrt(steps) are kept."""
    size = math.isqrt(steps)
    blocks, rest = divmod(steps, size)

    @jax.checkpoint
    def block(carry: tuple[PyTree, PyTree], start: jax.Array) -> tuple[Any, None]:
        return _run(solve, loss, start, size, *carry), None

    # The steps that fill no block come first: none at all still make the optimiser's state.
    carry = _run(solve, loss, first, rest, phi, state)
    starts = first + rest + size * jax.numpy.arange(blocks)
    return jax.lax.scan(block, carry, starts)[0]
