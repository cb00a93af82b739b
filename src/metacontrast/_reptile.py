"""Reptile: move the starting point towards where learning went."""

from __future__ import annotations

from dataclasses import dataclass

import jax

from ._check import shapes
from ._diagnostics import Diagnostics, measured
from ._problem import Problem, PyTree
from ._solve import Solver, settle


@dataclass(frozen=True)
class Reptile:
    """Take what learning changed, backwards, for the gradient of where it started.

        (d init / d theta)' (phi_init - phi_T),   with init = theta: theta - phi_T.

    Not the gradient of any one function; of the held-out loss it only reports the value. With SGD
    at a rate of alpha over T steps it is about `alpha T` times the mean inner gradient.

    Raises:
        ValueError: `problem.init` does not depend on theta, so that there is nothing to move.

    Reference: Nichol, Achiam, Schulman, "On first-order meta-learning algorithms", 2018,
    https://arxiv.org/abs/1803.02999.

    Example:
        >>> import jax, jax.numpy as jnp, optax, metacontrast as mc
        >>> problem = mc.Problem(
        ...     init=lambda theta, task: theta,
        ...     inner=lambda phi, theta, task: 0.5 * (phi - task) ** 2,
        ...     outer=lambda phi, theta, task: 0.5 * phi**2,
        ... )
        >>> loss = mc.meta_loss(problem, mc.descend(optax.sgd(0.5), steps=1), mc.Reptile())
        >>> float(jax.grad(loss)(jnp.array(0.0), jnp.array(2.0)))  # from 0 to 1
        -1.0
    """

    def value_and_grad(
        self,
        problem: Problem,
        solve: Solver,
        theta: PyTree,
        task: PyTree,
        key: jax.Array | None = None,
    ) -> tuple[tuple[jax.Array, Diagnostics], PyTree]:
        """`((L_out(phi_T), diagnostics), pseudo-gradient)`; diagnostics: inner, outer, residual."""
        shapes(problem, theta, task)
        _starts_from_theta(problem, theta, task)
        loss = problem.loss(theta, task, key=key)
        phi0, pull_back = jax.vjp(lambda theta: problem.init(theta, task), theta)
        phi = settle(solve, loss, phi0).phi
        grad = pull_back(jax.tree.map(lambda first, last: first - last, phi0, phi))[0]
        return (loss.outer(phi), measured(loss, phi)), grad


def _starts_from_theta(problem: Problem, theta: PyTree, task: PyTree) -> None:
    program = jax.make_jaxpr(lambda theta: problem.init(theta, task))(theta).jaxpr
    used = {id(v) for eqn in program.eqns for v in eqn.invars} | {id(v) for v in program.outvars}
    if not any(id(v) in used for v in program.invars):
        raise ValueError(
            "problem.init: does not depend on theta, and Reptile learns nothing but where learning "
            "starts; let init return (a part of) theta, or choose another estimator."
        )
