"""Backpropagation through training."""

from __future__ import annotations

from dataclasses import dataclass

import jax

from ._check import shapes
from ._diagnostics import Diagnostics, measured
from ._problem import Problem, PyTree
from ._solve import Solver, learn


@dataclass(frozen=True)
class Unrolled:
    """The exact gradient of what the solver did: backpropagation through all of its steps.

        d/dtheta L_out(phi_T(theta), theta),   phi_T the solver's last iterate.

    With `init=lambda theta, task: theta` this is MAML (Finn, Abbeel, Levine, 2017). It needs
    second derivatives, memory that grows with the number of steps, and a solver that JAX can
    differentiate in reverse (`descend`, not `until_converged`).

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
            phi = learn(problem, solve, theta, task, key).phi
            loss = problem.loss(theta, task)
            return loss.outer(phi), jax.lax.stop_gradient(measured(loss, phi))

        return jax.value_and_grad(trained, has_aux=True)(theta)
