"""A differentiable minimiser whose derivative is to learn again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from ._check import check_shapes
from ._loss import Loss
from ._must import Count, NotNegative, nudge
from ._problem import LossFunction, Problem
from ._sensitivity import Nudging, sensitivity
from ._solver._base import SolverLike, Start, run_solver
from ._solver._function import as_solver
from ._stencil import Scheme
from ._types import Key, PyTree, Scalar


def argmin(
    inner: LossFunction,
    solver: SolverLike,
    beta: Annotated[Scalar | float, nudge()] | None = None,
    *,
    init: Callable[[PyTree, PyTree], PyTree],
    scheme: Scheme = "symmetric",
    order: Count | None = None,
    damping: NotNegative | None = None,
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

    Forward mode goes the other way with the same nudges: `dphi_0 = -H^-1 c` is how far phases go
    that are nudged along `c`, the derivative of `dL_in/dphi` along the tangent. Second derivatives
    differentiate the linear system behind both. These two need a second derivative of `L_in` at
    phi_0, the gradient needs none.

    Where minimisers are many, `L_in` being flat between them, a gradient is meant as of the
    minimiser nearest to phi_0: of `argmin_phi |phi - phi_0|` among those of the new theta, the
    pseudo-inverse's. What `v` has along flat directions is left out, so long as the nudged solver
    only drifts along them, as gradient descent does. `Contrastive` with its outer nudge gives that
    of the best minimiser instead, which may differ. A `v` that is flat altogether, and a phi_0 at
    which the curvature along v is negative or no number, have no gradient: with beta left to the
    curvature, it is NaN.

    Args:
        inner: the loss to minimise.
        solver: how; the nudged solves start at phi_0.
        beta: length of the nudge, in units of the gradient `dL_in/dphi`; may be traced. Default:
            by the curvature along the nudge, so that phi moves by a small part of its size; see
            `natural_beta`. It is meant for solvers that converge: to learners that stop early give
            a beta, or `damping`.
        init: `(theta, z) -> phi`, where the first solve starts; gets no gradient.
        scheme: "symmetric", "forward" (one solve less, error `O(beta)`) or "holomorphic".
        order: in beta, see `Contrastive`.
        damping: see `Contrastive`.
        nudged: solver of the nudged solves. Default: `solver`.
        sample: see `Problem`.

    Raises:
        ValueError: a bad beta, scheme or order; bad input, see `check`.
        TypeError: second derivatives of an inner loss that has none.

    Reference: Scellier and Bengio, "Equilibrium propagation", 2017; Laborieux et al., 2021.

    Example:
        >>> import jax, jax.numpy as jnp, metacontrast as mc
        >>> centre = mc.argmin(
        ...     lambda phi, theta, task: (phi - task) ** 2 + theta * phi**2,
        ...     mc.closed_form(),
        ...     init=lambda theta, task: task,
        ... )
        >>> by_theta, by_task = jax.grad(centre, (0, 1))(jnp.array(1.0), jnp.array(4.0))
        >>> round(float(by_theta), 4), round(float(by_task), 4)  # of task / (1 + theta)
        (-1.0, 0.5)
    """
    problem = Problem(init, inner, lambda phi, theta, z: jnp.zeros(()), sample)
    free_solver = as_solver(solver)
    nudged_solver = free_solver if nudged is None else as_solver(nudged)
    nudging = Nudging(nudged_solver, beta, scheme, order, damping)

    @jax.custom_jvp
    def minimise(theta: PyTree, z: PyTree, key: Key | None) -> PyTree:
        return run_solver(free_solver, Loss(problem, theta, z, key), Start(init(theta, z))).phi

    def derivative(
        primals: tuple[PyTree, PyTree, Key | None], tangents: tuple[PyTree, PyTree, PyTree]
    ) -> tuple[PyTree, PyTree]:
        phi = minimise(*primals)
        by_theta, by_z = ([_way(t) for t in jax.tree.leaves(tree)] for tree in tangents[:2])
        # The problem need not be differentiable by a task by which no gradient is asked.
        loss = Loss(problem, *primals, by_z=any(t is not None for t in by_z))
        return phi, sensitivity(loss, phi, by_theta + by_z, nudging)

    minimise.defjvp(derivative, symbolic_zeros=True)

    def minimiser(theta: PyTree, z: PyTree, key: Key | None = None) -> PyTree:
        check_shapes(Loss(problem, theta, z, key))
        return minimise(theta, z, key)

    return minimiser


def _way(tangent: jax.Array | SymbolicZero) -> jax.Array | None:
    """The tangent of a leaf; None where it does not move."""
    still = isinstance(tangent, SymbolicZero) or tangent.dtype == jax.dtypes.float0
    return None if still else jnp.asarray(tangent)
