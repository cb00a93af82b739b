"""The contrastive rule with the outer loss taken as straight where the free phase ended."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import optax

from ._check import shapes
from ._contrast import encoded
from ._diagnostics import Diagnostics, contrasted
from ._problem import Loss, Problem, PyTree
from ._solve import Solver, settle
from ._stencil import stencil


@dataclass(frozen=True)
class LinearNudge:
    """The contrastive rule, nudged along the gradient of the outer loss at phi_0.

        v = dL_out(phi_0)/dphi,   phi_b = argmin_phi L_in + b <v / |v|, phi>,
        dL_out(phi_0)/dtheta ~ |v| sum_k w_k dL_in/dtheta(phi_{b_k}) + dL_out/dtheta(phi_0),

    the partial derivatives at fixed phi. A variant of the rule, not the rule itself (see `argmin`,
    which pulls back any v). The outer loss is looked at once, so that the nudged phases cost what
    the free phase costs however much test data there is; its curvature is left out, so that a
    negative nudge is harmless; and the unit length of v makes one beta fit outer losses of any
    scale. The error is of the same order in beta as `Contrastive`'s.

    Where learning stops early, what is left of the slope moves a nudged phase as well as the nudge
    does. With `damping`, a number, it is taken out, and phi_0 is stationary in every nudged phase:

        phi_b = argmin_phi L_in - <dL_in(phi_0)/dphi, phi> + damping/2 |phi - phi_0|^2
                           + b <v / |v|, phi>.

    As beta vanishes that is the gradient of `Implicit("cg", damping=damping)`. The forward scheme
    then is accurate, and all steps can be spent on its only nudged phase. A learner on batches has
    each batch's own slope at phi_0 taken out: a second gradient a step, and at phi_0 no noise.

    Args:
        beta: length of the nudge, in units of the gradient `dL_in/dphi`; not 0.
        scheme: "symmetric" or "forward", see `Contrastive`.
        order: in beta. Default 2 for symmetric, 1 for forward.
        nudged: solver of the nudged phases, which start at `phi_0`. Default: that of the free one.
        damping: as above, at least 0; against directions of negative curvature, at the price of a
            bias. Default: the slope is left as it is.

    Raises:
        ValueError: beta zero or not finite, another scheme, an order that the scheme lacks, a
            negative damping.

    Reference: Scellier and Bengio, "Equilibrium propagation", 2017, of which the nudge is the
    linear part; as an adjoint of minimisers it is that of `argmin`.

    Example:
        >>> import jax, jax.numpy as jnp, optax, metacontrast as mc
        >>> problem = mc.Problem(
        ...     init=lambda theta, task: theta,
        ...     inner=lambda phi, theta, task: (phi - task) ** 2 + (phi - theta) ** 2,
        ...     outer=lambda phi, theta, task: phi**2,
        ... )
        >>> solve = mc.descend(optax.sgd(0.1), steps=100)
        >>> loss = mc.meta_loss(problem, solve, mc.LinearNudge(beta=0.5))
        >>> grad = jax.grad(loss)(jnp.array(1.0), jnp.array(3.0))
        >>> round(float(grad), 3)  # phi_0 = 2, d phi_0 / d theta = 1/2
        2.0
    """

    beta: float
    scheme: str = "symmetric"
    order: int | None = None
    nudged: Solver | None = None
    damping: float | None = None

    def __post_init__(self) -> None:
        if self.scheme == "holomorphic":
            raise ValueError("scheme: a linear nudge is 'symmetric' or 'forward'; choose one.")
        stencil(self.scheme, self.order, self.beta)
        if self.damping is not None and not (self.damping >= 0 and math.isfinite(self.damping)):
            raise ValueError(
                f"damping: must be at least 0 and finite, not {self.damping}; or None, to leave "
                "the slope at phi_0 as it is."
            )

    def value_and_grad(
        self,
        problem: Problem,
        solve: Solver,
        theta: PyTree,
        task: PyTree,
        key: jax.Array | None = None,
    ) -> tuple[tuple[jax.Array, Diagnostics], PyTree]:
        """`((L_out(phi_0), diagnostics), meta-gradient)`; diagnostics as of `Contrastive`."""
        shapes(problem, theta, task)
        seen = encoded(problem, theta, task)
        loss = Loss(problem, theta, seen.z, 0.0, key)
        phi = settle(solve, loss, problem.init(theta, task)).phi
        value, v = jax.value_and_grad(loss.outer)(phi)
        size = optax.tree.norm(v)
        along = optax.tree.scale(1 / jnp.where(size > 0, size, 1.0), v)
        straight = replace(problem, outer=lambda phi, *_: optax.tree.vdot(along, phi))
        if self.damping is not None:
            straight = replace(straight, inner=_anchored(loss, phi, self.damping))

        nodes, weights = stencil(self.scheme, self.order, self.beta)
        phases = [replace(loss, problem=straight, beta=b) for b in nodes if b]
        phis = [settle(self.nudged or solve, phase, phi).phi for phase in phases]
        told = contrasted(loss, phi, list(zip(phases, phis, strict=True)))
        # The nudges do not depend on theta, so that L_in alone is contrasted; the weights of a
        # stencil add up to zero, which is that of phi_0. To it comes (L_in + L_out) - L_in.
        by_phase = [size * w for b, w in zip(nodes, weights, strict=True) if b]
        weights = [1.0, -1.0 - sum(by_phase), *by_phase]
        grad = seen.contrast([1.0] + [0.0] * (1 + len(phis)), weights, [phi, phi, *phis])
        return (value, told), grad


def _anchored(loss: Loss, phi_0: PyTree, damping: float) -> Callable[..., jax.Array]:
    """L_in of which phi_0 is a stationary point, on all data and on each view of them."""
    inner = loss.problem.inner
    slope = jax.grad(inner)
    whole = slope(phi_0, loss.theta, loss.z) if loss.problem.sample is None else None

    def anchored(phi: PyTree, theta: PyTree, z: PyTree) -> jax.Array:
        left = slope(phi_0, theta, z) if whole is None else whole
        way = optax.tree.sub(phi, phi_0)
        pulled = damping / 2 * optax.tree.norm(way, squared=True)
        return inner(phi, theta, z) - optax.tree.vdot(left, way) + pulled

    return anchored
