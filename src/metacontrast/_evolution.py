"""Evolution strategies: gradients from values alone, of the meta-loss or of the learner's loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import optax
from jax.flatten_util import ravel_pytree

from ._check import shapes
from ._diagnostics import Diagnostics, measured
from ._problem import Problem, PyTree
from ._solve import Descent, Solver, positive, settle

# Learners draw with fold_in(key, step): no step has this number, so no noise is shared with them.
OURS = 2**32 - 1


def antithetic(
    value: Callable[[PyTree], jax.Array], at: PyTree, key: jax.Array, sigma: float, pairs: int
) -> PyTree:
    """`1/(2 sigma m) sum_i [f(x + sigma e_i) - f(x - sigma e_i)] e_i`, e_i normal, i = 1 ... m."""
    flat, unravel = ravel_pytree(at)
    noise = jax.random.normal(key, (pairs, flat.size), flat.dtype)
    ahead, behind = (
        jax.vmap(lambda e, s=s: value(unravel(flat + s * e)))(noise) for s in (sigma, -sigma)
    )
    return unravel((ahead - behind) @ noise / (2 * sigma * pairs))


@dataclass(frozen=True)
class Evolution:
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
        >>> solve = mc.descend(optax.sgd(0.1), 100)
        >>> loss = mc.meta_loss(problem, solve, mc.Evolution(sigma=0.1, pairs=1000))
        >>> grad = jax.grad(loss)(jnp.array(1.0), jnp.array(3.0), jax.random.key(0))
        >>> bool(jnp.abs(grad - 2.0) < 0.2)
        True
    """

    sigma: float
    pairs: int = 1

    def __post_init__(self) -> None:
        _checked(self.sigma, self.pairs)

    def value_and_grad(
        self,
        problem: Problem,
        solve: Solver,
        theta: PyTree,
        task: PyTree,
        key: jax.Array | None = None,
    ) -> tuple[tuple[jax.Array, Diagnostics], PyTree]:
        """`((L_out(phi_0), diagnostics), meta-gradient)`; diagnostics: inner, outer, residual."""
        shapes(problem, theta, task)
        if key is None:
            raise ValueError(
                "key: Evolution draws its perturbations; pass a jax.random.key after the task."
            )

        def learned(theta: PyTree) -> tuple[Any, PyTree]:
            loss = problem.loss(theta, task, key=key)
            return loss, settle(solve, loss, problem.init(theta, task)).phi

        def value(theta: PyTree) -> jax.Array:
            loss, phi = learned(theta)
            return loss.outer(phi)

        grad = antithetic(value, theta, jax.random.fold_in(key, OURS), self.sigma, self.pairs)
        loss, phi = learned(theta)
        return (loss.outer(phi), measured(loss, phi)), grad


def evolve(
    optimizer: optax.GradientTransformation,
    steps: int,
    sigma: float,
    pairs: int = 8,
    seed: int = 0,
) -> Solver:
    """A learner without gradients: `descend` along antithetic evolution strategies' estimates.

    For losses that have no useful gradient (spikes, choices). Every phase draws the same
    perturbations, from `seed`, as the contrast needs. Where learning has converged the differences
    vanish and so does their noise: the estimates then do not limit how close it gets.

    Args:
        optimizer: for example `optax.sgd(1e-2)`; rates must be smaller than with gradients, about
            `pairs / size of phi` of them where that is below 1.
        steps: how many, at least 1.
        sigma: the size of the perturbations, positive: small against the scale on which the loss
            bends, large against its round-off or jumps.
        pairs: of perturbed losses a step.
        seed: of the perturbations.

    Example:
        >>> import jax.numpy as jnp
        >>> solution = evolve(optax.sgd(0.02), 200, sigma=0.1)(lambda x: jnp.sum(x**2), jnp.ones(3))
        >>> bool(jnp.abs(solution.phi).max() < 0.01)
        True
    """
    positive("steps", steps)
    _checked(sigma, pairs)

    def gradient(loss: Callable[..., jax.Array]) -> Callable[..., PyTree]:
        def at(phi: PyTree, step: Any) -> PyTree:
            key = jax.random.fold_in(jax.random.key(seed), step)
            return antithetic(lambda phi: loss(phi, step), phi, key, sigma, pairs)

        return at

    return Descent(optimizer, steps, gradient=gradient, holomorphic=False)


def _checked(sigma: float, pairs: int) -> None:
    if not sigma > 0:
        raise ValueError(f"sigma: must be positive, not {sigma}; try a tenth of theta's scale.")
    positive("pairs", pairs)
