"""Implicit differentiation: the meta-gradient from the condition that learning has converged."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from ._check import shapes
from ._diagnostics import Diagnostics, measured
from ._linear import Solved, cg, differenced, exactly
from ._problem import Problem, PyTree
from ._solve import Solver, positive, settle

METHODS = ("cg", "neumann", "identity", "exact")
LARGEST = 4096  # weights, of which "exact" makes a square matrix


@dataclass(frozen=True)
class Implicit:
    """The gradient at a minimiser of the inner loss, by the implicit function theorem.

        dL_out/dtheta - (d2 L_in / dphi dtheta)' u,    (H + damping) u = dL_out/dphi,

    with `H = d2 L_in / dphi2`, all at the phi where the free phase stopped: exact where that is a
    minimiser and u solves its equation. An init that is learned gets no gradient.

    | method   | u                                         | known as                              |
    |----------|-------------------------------------------|---------------------------------------|
    | cg       | conjugate gradient                        | Pedregosa, 2016; iMAML (Rajeswaran    |
    |          |                                           | et al., 2019), whose H holds lambda   |
    | neumann  | `rate * sum_k (1 - rate H)^k dL_out/dphi` | recurrent backpropagation (Liao et    |
    |          |                                           | al., 2018; Lorraine et al., 2020)     |
    | identity | `dL_out/dphi`                             | T1-T2 (Luketina et al., 2016)         |
    | exact    | by the matrix H itself, for small phi     |                                       |

    The "Hessian-free" iMAML of the published tables is another thing than `hessian_free` here: its
    *learner* is a Newton-CG method. It is `solve=newton_cg(...)` with `Implicit("cg")`.

    Args:
        method: one of the above.
        iterations: of cg, at most; terms of the Neumann series. The other two need none.
        damping: added to H, at least 0. Makes an indefinite H positive, at the price of a bias.
        rate: of the Neumann series, below 2 over the largest curvature, or it diverges.
        hessian_free: no second derivatives: all products with them are central differences of
            gradients, with an error of about 1e-10 (float64) or 1e-4 (float32) relative to them.

    Raises:
        ValueError: a bad argument; too many weights for "exact"; and, with concrete arrays, cg on a
            Hessian with negative curvature. Where values are traced (`jit`, `vmap`) nothing can be
            raised, and the gradient is NaN instead, with `curvature` in the diagnostics not
            positive: a gradient of a phi that is no minimum must not pass for one.

    Example:
        >>> import jax, jax.numpy as jnp, optax, metacontrast as mc
        >>> problem = mc.Problem(
        ...     init=lambda theta, task: theta,
        ...     inner=lambda phi, theta, task: (phi - task) ** 2 + (phi - theta) ** 2,
        ...     outer=lambda phi, theta, task: phi**2,
        ... )
        >>> loss = mc.meta_loss(problem, mc.descend(optax.sgd(0.1), 100), mc.Implicit("cg"))
        >>> round(float(jax.grad(loss)(jnp.array(1.0), jnp.array(3.0))), 4)  # 2 phi_0 / 2
        2.0
    """

    method: str = "cg"
    iterations: int = 20
    damping: float = 0.0
    rate: float | None = None
    hessian_free: bool = False

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method: unknown {self.method!r}; choose one of {METHODS}.")
        positive("iterations", self.iterations)
        if not (self.damping >= 0 and math.isfinite(self.damping)):
            raise ValueError(f"damping: must be at least 0 and finite, not {self.damping}.")
        if self.method == "neumann" and not (self.rate and self.rate > 0):
            raise ValueError(
                f"rate: the Neumann series needs a positive one, not {self.rate}; the learning "
                "rate of the inner loop is a good choice."
            )

    def value_and_grad(
        self,
        problem: Problem,
        solve: Solver,
        theta: PyTree,
        task: PyTree,
        key: jax.Array | None = None,
    ) -> tuple[tuple[jax.Array, Diagnostics], PyTree]:
        """`((L_out(phi_0), diagnostics), meta-gradient)`.

        Diagnostics: inner, outer, residual; `linear_residual`, `|(H + damping) u - b| / |b|`;
        `iterations` taken; `curvature`, the smallest that cg met (NaN for other methods).
        """
        shapes(problem, theta, task)
        loss = problem.loss(theta, task, key=key)
        phi, unravel = ravel_pytree(settle(solve, loss, problem.init(theta, task)).phi)
        along = differenced if self.hessian_free else exactly
        slope = jax.grad(lambda flat: loss(unravel(flat)))
        outer, b = jax.value_and_grad(lambda flat: loss.outer(unravel(flat)))(phi)
        u = self._solve(lambda v: along(slope, phi, v) + self.damping * v, b)

        def pulled(theta: PyTree) -> jax.Array:
            at = problem.loss(theta, task)
            inner = along(lambda flat: at(unravel(flat)), phi, u.x)
            return at.outer(unravel(phi)) - inner

        grad = _unless_indefinite(u.curvature, jax.grad(pulled)(theta))
        told = {k: getattr(u, k) for k in ("linear_residual", "iterations", "curvature")}
        return (outer, measured(loss, unravel(phi)) | told), grad

    def _solve(self, matvec: Callable[[jax.Array], jax.Array], b: jax.Array) -> Solved:
        if self.method == "cg":
            return cg(matvec, b, self.iterations)
        u, iterations = b, 0
        if self.method == "exact":
            u = _dense(matvec, b)
        elif self.method == "neumann":
            rate, iterations = self.rate or 0.0, self.iterations
            u = jax.lax.fori_loop(0, iterations, lambda _, u: u + rate * (b - matvec(u)), 0 * b)
        size = jnp.linalg.norm(b)
        residual = jnp.linalg.norm(matvec(u) - b) / jnp.where(size > 0, size, 1.0)
        return Solved(u, jnp.array(iterations), residual, jnp.array(jnp.nan))


def _dense(matvec: Callable[[jax.Array], jax.Array], b: jax.Array) -> jax.Array:
    if b.size > LARGEST:
        raise ValueError(
            f"method: 'exact' makes a matrix of all pairs of the {b.size} weights, and is meant "
            f"for {LARGEST} at most; use 'cg'."
        )
    return jnp.linalg.solve(jax.vmap(matvec)(jnp.eye(b.size, dtype=b.dtype)), b)


def _unless_indefinite(curvature: jax.Array, grad: PyTree) -> PyTree:
    if not isinstance(curvature, jax.core.Tracer) and curvature <= 0:
        raise ValueError(
            f"solve: the inner Hessian has negative curvature ({curvature:.3g}) where learning "
            "stopped, so that is no minimum and conjugate gradient does not apply: learn for "
            "longer, add damping (above the curvature) or a regulariser, or use Contrastive."
        )
    return jax.tree.map(lambda g: jnp.where(curvature <= 0, jnp.nan, g), grad)
