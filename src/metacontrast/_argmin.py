"""A differentiable minimiser whose reverse rule is to learn again, nudged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ._contrastive import Contrastive
from ._problem import Problem, PyTree
from ._solve import Solver, settle
from ._stencil import stencil


def argmin(
    inner: Callable[[PyTree, PyTree, PyTree], Any],
    solve: Solver,
    beta: Any,
    *,
    init: Callable[[PyTree, PyTree], PyTree],
    scheme: str = "symmetric",
    order: int | None = None,
) -> Callable[[PyTree, PyTree], PyTree]:
    """`(theta, task) -> phi_0 = argmin_phi L_in(phi, theta, task)`, with a gradient.

    A cotangent `v` of phi_0 is pulled back by solves nudged along it,

        v' dphi_0/dtheta = 1/(2 beta) [ dL_in/dtheta(phi_beta) - dL_in/dtheta(phi_-beta) ],
        phi_beta = argmin_phi L_in + beta <v / |v|, phi>,   times |v|,

    so that any function of phi_0 can follow, and any number of them. A variant of the contrastive
    rule, not the rule itself: there the nudge is a test loss, here its linear part at phi_0. A
    linear nudge leaves the curvature alone, so that a negative beta is harmless and the symmetric
    scheme is exact for quadratic inner losses, whatever beta. Its unit length makes one beta fit
    cotangents of all sizes.

    Args:
        inner: the loss to minimise.
        solve: how; the nudged solves start at phi_0.
        beta: length of the nudge, in units of the gradient `dL_in/dphi`.
        init: `(theta, task) -> phi`, where the first solve starts; gets no gradient.
        scheme: "symmetric", "forward" (one solve less, error `O(beta)`) or "holomorphic".
        order: in beta, see `Contrastive`.

    Raises:
        ValueError: a bad beta, scheme or order.
        TypeError: when the gradient with respect to the task is asked for; make what you want to
            learn of it a part of theta.

    Reference: Scellier and Bengio, "Equilibrium propagation", 2017; Laborieux et al., 2021.

    Example:
        >>> import jax, jax.numpy as jnp, metacontrast as mc
        >>> centre = mc.argmin(
        ...     lambda phi, theta, task: (phi - task) ** 2 + theta * phi**2,
        ...     mc.closed_form(),
        ...     beta=0.1,
        ...     init=lambda theta, task: task,
        ... )
        >>> grad = jax.grad(lambda theta: centre(theta, jnp.array(4.0)))(jnp.array(1.0))
        >>> round(float(grad), 4)  # of 4 / (1 + theta)
        -1.0
    """
    stencil(scheme, order, beta)

    @jax.custom_vjp
    def found(theta: PyTree, task: PyTree) -> PyTree:
        loss = Problem(init, inner, _nothing).loss(theta, task)
        return settle(solve, loss, init(theta, task)).phi

    def forward(theta: Any, task: Any) -> tuple[PyTree, Any]:
        if any(leaf.perturbed for leaf in jax.tree.leaves(task)):
            raise TypeError(
                "task: the gradient of an argmin is taken with respect to theta alone; make what "
                "you want to learn of the task a part of theta."
            )
        theta, task = jax.tree.map(lambda leaf: leaf.value, (theta, task))
        phi = found(theta, task)
        return phi, (theta, task, phi)

    def backward(residuals: Any, v: PyTree) -> tuple[PyTree, None]:
        theta, task, phi = residuals
        size = optax.tree.norm(v)
        along = optax.tree.scale(1 / jnp.where(size > 0, size, 1.0), v)
        nudged = Problem(lambda *_: phi, inner, lambda phi, *_: optax.tree.vdot(along, phi))
        rule = Contrastive(beta, scheme, order, nudged=solve)
        _, grad = rule.value_and_grad(nudged, lambda _, phi: phi, theta, task)
        return optax.tree.scale(size, grad), None

    found.defvjp(forward, backward, symbolic_zeros=True)
    return found


def _nothing(phi: PyTree, theta: PyTree, z: PyTree) -> float:
    return 0.0
