"""One trial nudge: the meta-gradient it gives, and the same from phases that are polished."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from .._conjugate_gradient import cg
from .._contrast import contrast, contrast_at
from .._linear import Vector, central_difference, flat
from .._loss import Loss, OuterNudge
from .._precision import matmul
from .._solver._base import Solver
from .._stencil import Scheme, stencil
from .._types import PyTree, Scalar

Slope: TypeAlias = tuple[Vector, Vector]  # phi, and the gradient there
POLISH, ENOUGH = 50, 1e-3  # steps of conjugate gradient, and the relative residual to stop at


@dataclass(frozen=True)
class Trial:
    """What `suggest_beta` tries betas on: contrasts by theta, flat.

    Args:
        loss: of the free phase.
        phi_0: where that ended.
        minimum: where it would have come to rest, `polished(loss, phi_0)`; None where the scheme
            does not use the free phase.
        nudged: solver of the nudged phases.
        scheme: of the contrast.
        order: of the scheme.
    """

    loss: Loss
    phi_0: PyTree
    minimum: PyTree
    nudged: Solver
    scheme: Scheme
    order: int | None

    def rough(self, beta: Scalar) -> Vector:
        """The contrastive meta-gradient at this beta."""
        points = stencil(self.scheme, self.order, beta)
        (by_theta, _), _ = contrast(self.loss, self.phi_0, self.nudged, points, OuterNudge)
        return ravel_pytree(by_theta)[0]

    def both(self, beta: Scalar) -> tuple[Vector, Vector]:
        """The same, and once more from phases that were polished."""
        points = stencil(self.scheme, self.order, beta)
        grads, phases = contrast(self.loss, self.phi_0, self.nudged, points, OuterNudge)
        losses, weights = [phase.loss for phase in phases], list(points.weights)
        phis = [polished(phase.loss, phase.solution.phi) for phase in phases]
        if points.free is not None:
            losses, weights = [self.loss, *losses], [points.free, *weights]
            phis = [self.minimum, *phis]
        better = contrast_at(losses, weights, phis)
        return ravel_pytree(grads[0])[0], ravel_pytree(better[0])[0]


def polished(loss: Loss, phi: PyTree) -> PyTree:
    """Where the phase would have come to rest: Newton steps, from gradients alone."""
    at = flat(loss, phi)

    def newton(state: Slope, _: None) -> tuple[Slope, Slope]:
        x, g = state
        step = cg(lambda v: central_difference(at.slope, x, v), g, POLISH, ENOUGH)
        # No minimum is near where the first curvature is negative: at least its size is right.
        at_once = (step.curvature <= 0) & (step.iterations == 1)
        x = x - jnp.where(at_once, g / jnp.abs(step.curvature), step.x)
        state = x, at.slope(x)
        return state, state

    _, (xs, slopes) = jax.lax.scan(newton, (at.x, at.slope(at.x)), length=2)
    # A phase far from its minimum needs the second step; at round-off it would only add noise.
    better = jnp.linalg.norm(slopes[1]) < 0.5 * jnp.linalg.norm(slopes[0])
    return at.unravel(jnp.where(better, xs[1], xs[0]))


def natural_unit(loss: Loss, phi: PyTree) -> Scalar:
    """The beta at which the nudge is as strong as the pull back, along the nudge's direction.

    Curvature within over curvature without; that of a straight outer loss is taken to be what
    changes it by its own slope on the way to the origin.
    """
    x, unravel = ravel_pytree(phi)
    inner, outer = (jax.grad(lambda x, f=f: f(unravel(x))) for f in (loss.inner, loss.outer))
    d = outer(x)
    size = jnp.linalg.norm(d)
    along = d / jnp.where(size > 0, size, 1.0)
    stiff, bent = (jnp.abs(matmul(along, central_difference(f, x, along))) for f in (inner, outer))
    unit = stiff / (bent + size / (1 + jnp.linalg.norm(x)))
    return jnp.where(jnp.isfinite(unit) & (unit > 0), unit, 1.0)
