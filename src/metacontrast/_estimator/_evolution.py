"""Evolution strategies on theta."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import jax

from .._diagnostics import free_diagnostics
from .._loss import Loss
from .._must import Count, Spread
from .._solver._base import Solver
from .._solver._evolve import antithetic
from .._types import PyTree, Scalar
from ._base import Estimator, MetaGradient, Starts, free_phase

# Learners draw with fold_in(key, step): no step has this number, so no noise is shared with them,
# and the value is that of the meta-loss with the same key.
PERTURBATIONS = 2**32 - 1


@dataclass(frozen=True)
class Evolution(Estimator):
    """Antithetic evolution strategies on theta: learn from perturbed thetas, compare how well.

        1/(2 sigma m) sum_i [ F(theta + sigma e_i) - F(theta - sigma e_i) ] e_i,   e_i ~ N(0, 1),

    with F the meta-loss: the gradient of F smoothed by a normal distribution, without bias for any
    learner that runs, unconverged or not. Its variance grows with the size of theta. All learners
    draw the same random numbers, so that only the perturbation tells them apart; the `m` pairs are
    run side by side (`vmap`).

    Args:
        sigma: the size of the perturbations, positive.
        pairs: m, at least 1. Each costs two runs of the learner, and the value one more.

    Raises:
        ValueError: a bad argument, or no key.

    Reference: Rechenberg, 1973; antithetic: Salimans, Ho, Chen, Sidor, Sutskever, 2017.

    Example:
        >>> import jax, jax.numpy as jnp, optax, metacontrast as mc
        >>> problem = mc.Problem(
        ...     init=lambda theta, task: theta,
        ...     inner=lambda phi, theta, task: (phi - task) ** 2 + (phi - theta) ** 2,
        ...     outer=lambda phi, theta, task: phi**2,
        ... )
        >>> solver = mc.descend(optax.sgd(0.1), 100)
        >>> loss = mc.meta_loss(problem, solver, mc.Evolution(sigma=0.1, pairs=1000))
        >>> grad = jax.grad(loss)(jnp.array(1.0), jnp.array(3.0), jax.random.key(0))
        >>> bool(jnp.abs(grad - 2.0) < 0.2)
        True
    """

    sigma: Spread
    pairs: Count = 1
    by_slope: ClassVar[bool] = False

    def value_and_grad(self, loss: Loss, solver: Solver, starts: Starts = None) -> MetaGradient:
        """The meta-gradient; its aux: inner, outer, residual."""
        if loss.key is None:
            raise ValueError(
                "key: Evolution draws its perturbations; pass a jax.random.key after the task."
            )
        perturbing = jax.random.fold_in(loss.key, PERTURBATIONS)

        def value(theta: PyTree) -> Scalar:
            at = replace(loss, theta=theta)
            end = free_phase(at, solver)
            return at.with_state(end.model).outer(end.phi)

        by_theta = antithetic(value, loss.theta, perturbing, self.sigma, self.pairs)
        end = free_phase(loss, solver)
        aux = free_diagnostics(loss.with_state(end.model), end.phi)
        return MetaGradient(aux["outer"], by_theta, aux=aux)
