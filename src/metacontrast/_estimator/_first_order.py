"""The crude ones: first-order MAML drops all second derivatives, Reptile looks at phi alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax

from .._diagnostics import free_diagnostics
from .._loss import Loss
from .._solver._base import Solver
from .._types import PyTree, Scalar
from ._base import Estimator, MetaGradient, Starts, free_phase


@dataclass(frozen=True)
class FirstOrder(Estimator):
    """Take `d phi_T / d theta` to be `d phi_0 / d theta`, as if learning only added a constant.

        dL_out/dtheta(phi_T) + dL_out/dphi(phi_T) . d init / d theta

    With `init=lambda theta, task: theta` this is first-order MAML (Finn, Abbeel, Levine, 2017). A
    meta-parameter that acts through the inner loss alone (a regulariser) would get none at all.

    Raises:
        ValueError: a leaf of theta on which neither `problem.init` nor the outer loss depends.

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

    through: ClassVar[tuple[str, ...]] = ("init", "outer")

    def value_and_grad(self, loss: Loss, solver: Solver, starts: Starts = None) -> MetaGradient:
        """The meta-gradient; its aux: inner, outer, residual."""
        init = lambda theta: loss.problem.init(theta, loss.z)
        end = free_phase(loss, solver)
        loss = loss.with_state(end.model)
        change = jax.tree.map(lambda last, first: last - first, end.phi, init(loss.theta))

        def displaced(theta: PyTree) -> Scalar:
            phi = jax.tree.map(lambda first, step: first + step, init(theta), change)
            return loss.at(theta, loss.z).outer(phi)

        value, by_theta = jax.value_and_grad(displaced)(loss.theta)
        return MetaGradient(value, by_theta, aux=free_diagnostics(loss, end.phi))


@dataclass(frozen=True)
class Reptile(Estimator):
    """Take what learning changed, backwards, for the gradient of where it started.

        (d init / d theta)' (phi_init - phi_T),   with init = theta: theta - phi_T.

    Not the gradient of any one function; of the held-out loss it only reports the value. With SGD
    at a rate of alpha over T steps it is about `alpha T` times the mean inner gradient.

    Raises:
        ValueError: a leaf of theta on which `problem.init` does not depend: it cannot be moved.

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

    through: ClassVar[tuple[str, ...]] = ("init",)
    by_slope: ClassVar[bool] = False

    def value_and_grad(self, loss: Loss, solver: Solver, starts: Starts = None) -> MetaGradient:
        """The pseudo-gradient; its aux: inner, outer, residual."""
        init = lambda theta: loss.problem.init(theta, loss.z)
        first, pull_back = jax.vjp(init, loss.theta)
        end = free_phase(loss, solver)
        (by_theta,) = pull_back(jax.tree.map(lambda a, b: a - b, first, end.phi))
        aux = free_diagnostics(loss.with_state(end.model), end.phi)
        return MetaGradient(aux["outer"], by_theta, aux=aux)
