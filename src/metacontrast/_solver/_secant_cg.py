"""Nudged phases by one solve in first derivatives: conjugate gradient on secants."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from .._conjugate_gradient import LinearSolution, goal_cg
from .._curved import curved
from .._linear import coarsest
from .._loss import Loss
from .._must import Count, positive
from .._problem import InverseCurvature
from .._tree import widened
from .._types import PyTree, Scalar, Step
from ._base import Solver, State, Tangent


@dataclass(frozen=True)
class SecantCG(Solver):
    """What `secant_cg` returns. Its memory: the tangent, as a vector."""

    iterations: int
    accuracy: float | None
    precondition: bool
    central: bool
    views: int | None

    def step(self, loss: Loss, state: State, t: Step) -> State:
        """Refused: it is no learner."""
        raise TypeError(
            f"solver: {self!r} finds how a minimum moves with a nudge, and cannot find a minimum: "
            "learn the free phase by another solver, lbfgs say, and give this one to "
            "Contrastive(nudged=...) or argmin(nudged=...)."
        )

    def tangent(
        self,
        loss: Loss,
        phi_0: PyTree,
        memory: PyTree = None,
        inverse: InverseCurvature | None = None,
    ) -> Tangent:
        """The solution of `(H + damping) u = -d2L/dphi dbeta`."""
        if self.precondition and inverse is None:
            raise TypeError(
                f"nudged: {self!r} is preconditioned by what the free phase's solver remembers of "
                "the curvature, and this one remembers nothing; learn freely with lbfgs or "
                "descend(optax.adam(...), ...), or say precondition=False."
            )
        nudge = loss.nudge
        if nudge is None:
            raise TypeError(f"loss: {self!r} needs a nudge, along which the minimum moves.")
        if self.views is not None and loss.samples:
            loss = replace(loss, problem=replace(loss.problem, views=self.views))
        b, unravel = ravel_pytree(jax.tree.map(widened, nudge.by_beta(loss, phi_0)))
        noise = coarsest(phi_0) ** (2 / 3 if self.central else 1 / 2)
        product = curved(
            loss, phi_0, nudge.damping or 0.0,
            central=self.central, watch=self.accuracy is not None,
        )  # fmt: skip
        preconditioner = None
        if self.precondition and inverse is not None:
            apply = inverse.apply
            preconditioner = lambda r: ravel_pytree(apply(unravel(r)))[0]
        solution, change = goal_cg(
            product, -b, self.iterations, self.accuracy,
            noise=noise, start=memory, inverse=preconditioner,
        )  # fmt: skip
        return self._tangent(solution, change, unravel(solution.x))

    def _tangent(self, solution: LinearSolution, change: Scalar, u: PyTree) -> Tangent:
        curvature = jnp.where(solution.resolved, solution.curvature, jnp.nan)
        converged = None
        if self.accuracy is not None:
            solved = solution.linear_residual <= 8 * jnp.finfo(solution.x.dtype).eps
            converged = (change <= self.accuracy) | solved
        memory = solution.x if self.carries else None
        return Tangent(u, solution.iterations, converged, curvature, memory)


def secant_cg(
    iterations: Count = 20,
    tol: Annotated[float, positive("leave it out to take all iterations")] | None = None,
    *,
    precondition: bool = False,
    recycle: bool = True,
    central: bool = False,
    views: Count | None = None,
) -> Solver:
    """Nudged phases by one linear solve for all of them, a gradient a step: `Contrastive(nudged=)`.

        H u = -d2L/dphi dbeta   by conjugate gradient,   H p = [g(phi_0 + e p) - g(phi_0)] / e,
        phi_beta = phi_0 + beta u   for every node of the stencil.

    Learning is not run again: a nudged minimum begins to move along its tangent u, and the contrast
    of any stencil, of any order, depends on nothing else to its own order in beta. So a symmetric
    contrast costs `iterations` gradients and two, whatever beta, and what the free phase left
    undone cancels. It is implicit differentiation, without second derivatives. With `beta=None` the
    nodes lie a small part of phi's size apart, by the length of u, which costs nothing.

    It is for learners that come near a minimum: elsewhere curvature may be negative. There it
    stops, or where that is 0; the meta-gradient is that of the steps before, and is flagged
    `unbounded`. Along what is flat a nudge must not pull, as it does not where minima are many and
    the outer loss sees what the inner one sees; `damping` holds all such directions up.

    Args:
        iterations: of conjugate gradient, at most; a gradient each.
        tol: on the relative error of the meta-gradient itself, judged by how much that changed in
            the last iterations (see `goal_cg`), for about the price of its gradients by theta.
            Default: all iterations are taken, or so many as round-off allows.
        precondition: by what the free phase's solver has met of the curvature: the pairs of
            `lbfgs`, of which the more the better (its `pairs=`), or the second moments of an Adam.
        recycle: begin at the direction of the last meta-gradient, where `starts` tell it.
        central: central differences, two gradients a product. A forward difference is exact to
            about the root of the type's precision times the condition of H: in float32 the
            meta-gradient is then right to 1e-3 or 1e-2, with central ones to 1e-5 or 1e-3.
            e goes by phi's type: a loss that computes in a narrower one than phi's is too noisy for
            it, which is flagged `unconverged`; learn phi in that type.
        views: for problems that sample: products are of the mean loss of the first so many views,
            the same in each. Default: of all data, or of `Problem.views`.

    Raises:
        ValueError: iterations or views that are no whole number of at least 1, a bad tol.
        TypeError: as solver of a free phase; a preconditioner that the free phase does not have.

    Reference: Hestenes and Stiefel, 1952; products by differences: Dembo, Eisenstat and Steihaug,
    1982; meta-gradients by conjugate gradient: Pedregosa, 2016.

    Example: phi_0 = 3 / (1 + theta) is the least of (phi - 3)^2 + theta phi^2.
        >>> import jax, jax.numpy as jnp, metacontrast as mc
        >>> problem = mc.Problem(
        ...     init=lambda theta, task: jnp.zeros(2),
        ...     inner=lambda phi, theta, task: jnp.sum((phi - task) ** 2 + theta * phi**2),
        ...     outer=lambda phi, theta, task: jnp.sum((phi - 1.0) ** 2) / 2,
        ... )
        >>> rule = mc.Contrastive(None, "symmetric", nudge="linear", nudged=mc.secant_cg(5))
        >>> loss = mc.meta_loss(problem, mc.lbfgs(1e-5), rule)
        >>> jax.grad(loss)(jnp.ones(2), jnp.full(2, 3.0)).round(3).tolist()  # -3/4 (3/2 - 1)
        [-0.375, -0.375]
    """
    return SecantCG(
        iterations, tol, precondition, central, views,
        steps=1, sampled=False, holomorphic=True, carries=recycle,
    )  # fmt: skip
