"""One trial nudge: the meta-gradient it gives, and the same from phases that are polished."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from ._contrast import Encoded
from ._linear import cg, differenced
from ._problem import Loss, PyTree
from ._solve import Solution
from ._stencil import stencil

POLISH, ENOUGH = 50, 1e-3  # steps of conjugate gradient, and the relative residual to stop at

Phase = Callable[[Loss, Solution], PyTree]


@dataclass(frozen=True)
class Trial:
    """What `suggest_beta` tries betas on; `phase(loss, free)` runs a nudged phase."""

    seen: Encoded
    loss: Loss
    free: Solution
    phase: Phase
    scheme: str
    order: int | None

    def rough(self, beta: jax.Array) -> jax.Array:
        """The contrastive meta-gradient at this beta, flat."""
        return self._contrast(beta, self._phases(beta))

    def both(self, beta: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The same, and once more from phases that were polished."""
        phis = self._phases(beta)
        nodes, _ = stencil(self.scheme, self.order, beta)
        better = [polished(self.loss.nudged(b), x) for b, x in zip(nodes, phis, strict=True)]
        return self._contrast(beta, phis), self._contrast(beta, better)

    def _phases(self, beta: jax.Array) -> list[PyTree]:
        nodes, _ = stencil(self.scheme, self.order, beta)
        return [self.phase(self.loss.nudged(b), self.free) for b in nodes]

    def _contrast(self, beta: jax.Array, phis: list[PyTree]) -> jax.Array:
        grad = self.seen.contrast(*stencil(self.scheme, self.order, beta), phis)
        return ravel_pytree(grad)[0]


def polished(loss: Loss, phi: PyTree) -> PyTree:
    """Where the phase would have come to rest: Newton steps, from gradients alone."""
    flat, unravel = ravel_pytree(phi)
    slope = jax.grad(lambda x: loss(unravel(x)))

    def newton(flat: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = cg(lambda v: differenced(slope, flat, v), g, POLISH, ENOUGH)
        # No minimum is near where the first curvature is negative: at least its size is right.
        stuck = (found.curvature <= 0) & (found.iterations == 1)
        there = flat - jnp.where(stuck, g / jnp.abs(found.curvature), found.x)
        return there, slope(there)

    first = newton(flat, slope(flat))
    second = newton(*first)
    # A phase far from its minimum needs the second step; at round-off it would only add noise.
    better = jnp.linalg.norm(second[1]) < 0.5 * jnp.linalg.norm(first[1])
    return unravel(jnp.where(better, second[0], first[0]))


def unit(loss: Loss, phi: PyTree) -> jax.Array:
    """The beta at which the nudge is as strong as the pull back, along the nudge's direction.

    Curvature within over curvature without; that of a straight outer loss is taken to be what
    changes it by its own slope on the way to the origin.
    """
    flat, unravel = ravel_pytree(phi)
    inner, outer = (jax.grad(lambda x, f=f: f(unravel(x))) for f in (loss, loss.outer))
    d = outer(flat)
    size = jnp.linalg.norm(d)
    along = d / jnp.where(size > 0, size, 1.0)
    stiff, bent = (jnp.abs(along @ differenced(f, flat, along)) for f in (inner, outer))
    found = stiff / (bent + size / (1 + jnp.linalg.norm(flat)))
    return jnp.where(jnp.isfinite(found) & (found > 0), found, 1.0)
