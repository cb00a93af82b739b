"""Evolution strategies: gradients from values alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import optax
from jax.flatten_util import ravel_pytree

from .._must import Count, Seed, Spread
from .._precision import matmul
from .._types import Key, PyTree, Scalar, Step
from ._base import Solver
from ._descend import Descend, Value


def antithetic(
    value: Callable[[PyTree], Scalar], at: PyTree, key: Key, sigma: float, pairs: int
) -> PyTree:
    """`1/(2 sigma m) sum_i [f(x + sigma e_i) - f(x - sigma e_i)] e_i`, e_i normal, i = 1 ... m."""
    flat, unravel = ravel_pytree(at)
    noise = jax.random.normal(key, (pairs, flat.size), flat.dtype)
    ahead, behind = (
        jax.vmap(lambda e, s=s: value(unravel(flat + s * e)))(noise) for s in (sigma, -sigma)
    )
    slope = matmul(ahead - behind, noise) / (2 * sigma * pairs)
    return unravel(slope.astype(flat.dtype))  # values may be of a wider type


@dataclass(frozen=True)
class Evolve(Descend):
    """What `evolve` returns."""

    sigma: float
    pairs: int
    seed: int

    def gradient(self, loss: Value, phi: PyTree, t: Step, moments: PyTree) -> tuple[Scalar, PyTree]:
        """The value, and the estimate of the gradient that step t draws."""
        key = jax.random.fold_in(jax.random.key(self.seed), t)
        return loss(phi), antithetic(loss, phi, key, self.sigma, self.pairs)


def evolve(
    optimizer: optax.GradientTransformation,
    steps: Count,
    sigma: Spread,
    pairs: Count = 8,
    seed: Seed = 0,
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

    Reference: Rechenberg, 1973; antithetic: Salimans, Ho, Chen, Sidor, Sutskever, 2017.

    Example:
        >>> import jax.numpy as jnp
        >>> solution = evolve(optax.sgd(0.02), 200, sigma=0.1)(lambda x: jnp.sum(x**2), jnp.ones(3))
        >>> bool(jnp.abs(solution.phi).max() < 0.01)
        True
    """
    return Evolve(optimizer, sigma, pairs, seed, steps=steps, carries=True)
