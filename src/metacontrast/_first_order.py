"""The crude first-order approximation: drop all second derivatives."""

from __future__ import annotations

from dataclasses import dataclass

import jax

from ._check import shapes
from ._diagnostics import Diagnostics, measured
from ._problem import Problem, PyTree
from ._solve import Solver, learn


@dataclass(frozen=True)
class FirstOrder:
    """Take `d phi_T / d theta` to be `d phi_0 / d theta`, as if learning only added a constant.

        dL_out/dtheta(phi_T) + dL_out/dphi(phi_T) . d init / d theta

    With `init=lambda theta, task: theta` this is first-order MAML (Finn, Abbeel, Levine, 2017). A
    meta-parameter that acts through the inner loss alone (a regulariser) gets no gradient at all.

    Example:
        >>> import jax, jax.numpy as jnp, optax, metacontrast as mc
        >>> problem = mc.Problem(
        ...     init=lambda theta, task: theta,
        ...     inner=lambda phi, theta, task: 0.5 * (phi - task) ** 2,
        ...     outer=lambda phi, theta, task: 0.5 * phi**2,
        ... )
        >>> loss = mc.meta_loss(problem, mc.descend(optax.sgd(0.5), steps=1), mc.FirstOrder())
        >>> float(jax.grad(loss)(jnp.array(0.0), jnp.array(2.0)))  # phi_1 = 1, taken as 0 + 1
        1.0
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
        phi = learn(problem, solve, theta, task, key).phi
        learned = jax.tree.map(lambda last, first: last - first, phi, problem.init(theta, task))

        def displaced(theta: PyTree) -> jax.Array:
            phi = jax.tree.map(
                lambda first, moved: first + moved, problem.init(theta, task), learned
            )
            return problem.loss(theta, task).outer(phi)

        value, grad = jax.value_and_grad(displaced)(theta)
        return (value, measured(problem.loss(theta, task), phi)), grad
