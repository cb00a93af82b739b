"""A differentiable minimiser whose reverse rule is to learn again."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike

from ._check import check_shapes
from ._contrast import linear_contrast
from ._loss import Loss
from ._problem import LossFunction, Problem
from ._solver._base import SolverLike, Start, run_solver
from ._solver._function import as_solver
from ._stencil import Scheme, stencil
from ._types import Key, PyTree, Scalar


def argmin(
    inner: LossFunction,
    solver: SolverLike,
    beta: Scalar | float,
    *,
    init: Callable[[PyTree, PyTree], PyTree],
    scheme: Scheme = "symmetric",
    order: int | None = None,
    damping: float | None = None,
    nudged: SolverLike | None = None,
    sample: Callable[[PyTree, Key], PyTree] | None = None,
) -> Callable[[PyTree, PyTree, Key | None], PyTree]:
    """`(theta, z, key=None) -> phi_0 = argmin_phi L_in(phi, theta, z)`, with a gradient.

    A cotangent `v` of phi_0 is pulled back by solves nudged along it,

        v' dphi_0/d(theta, z) = 1/(2 beta) [ dL_in/d(theta, z)(phi_beta) - ...(phi_-beta) ],
        phi_beta = argmin_phi L_in + beta <v / |v|, phi>,   times |v|,

    so that any function of phi_0 can follow, and any number of them. It is the linear nudge of
    `Contrastive`, of which the outer loss may be anything: there the nudge is by default a test
    loss, here it is its linear part at phi_0. A linear nudge leaves the curvature alone, so that a
    negative beta is harmless and the symmetric scheme is exact for quadratic inner losses, whatever
    beta. Its unit length makes one beta fit cotangents of all sizes.

    Args:
        inner: the loss to minimise.
        solver: how; the nudged solves start at phi_0.
        beta: length of the nudge, in units of the gradient `dL_in/dphi`.
        init: `(theta, z) -> phi`, where the first solve starts; gets no gradient.
        scheme: "symmetric", "forward" (one solve less, error `O(beta)`) or "holomorphic".
        order: in beta, see `Contrastive`.
        damping: see `Contrastive`.
        nudged: solver of the nudged solves. Default: `solver`.
        sample: see `Problem`.

    Raises:
        ValueError: a bad beta, scheme or order; bad input, see `check`.

    Reference: Scellier and Bengio, "Equilibrium propagation", 2017; Laborieux et al., 2021.

    Example:
        >>> import jax, jax.numpy as jnp, metacontrast as mc
        >>> centre = mc.argmin(
        ...     lambda phi, theta, task: (phi - task) ** 2 + theta * phi**2,
        ...     mc.closed_form(),
        ...     beta=0.1,
        ...     init=lambda theta, task: task,
        ... )
        >>> by_theta, by_task = jax.grad(centre, (0, 1))(jnp.array(1.0), jnp.array(4.0))
        >>> round(float(by_theta), 4), round(float(by_task), 4)  # of task / (1 + theta)
        (-1.0, 0.5)
    """
    points = stencil(scheme, order, beta)
    problem = Problem(init, inner, lambda phi, theta, z: jnp.zeros(()), sample)
    free_solver = as_solver(solver)
    nudged_solver = free_solver if nudged is None else as_solver(nudged)

    @jax.custom_vjp
    def minimise(theta: PyTree, z: PyTree, key: Key | None) -> PyTree:
        return run_solver(free_solver, Loss(problem, theta, z, key), Start(init(theta, z))).phi

    def forward(*leaves: PyTree) -> tuple[PyTree, tuple[PyTree, ...]]:
        arguments = jax.tree.map(lambda leaf: leaf.value, leaves)
        phi = minimise(*arguments)
        # The problem need not be differentiable by a task by which no gradient is asked. Structure,
        # unlike a truth value, stays known where values are traced.
        by_z = () if any(leaf.perturbed for leaf in jax.tree.leaves(leaves[1])) else None
        return phi, (*arguments, phi, by_z)

    def backward(residuals: tuple[PyTree, ...], v: PyTree) -> tuple[PyTree, PyTree, None]:
        theta, z, key, phi, by_z = residuals
        loss = Loss(problem, theta, z, key, by_z=by_z is not None)
        v = jax.tree.map(_instantiate, v)
        grads, _ = linear_contrast(loss, phi, v, nudged_solver, points, damping=damping)
        return *grads, None

    minimise.defvjp(forward, backward, symbolic_zeros=True)

    def checked(theta: PyTree, z: PyTree, key: Key | None = None) -> PyTree:
        check_shapes(Loss(problem, theta, z, key))
        return minimise(theta, z, key)

    return checked


def _instantiate(v: ArrayLike | SymbolicZero) -> jax.Array:
    return jnp.zeros(v.shape, v.dtype) if isinstance(v, SymbolicZero) else jnp.asarray(v)
