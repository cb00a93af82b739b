"""Implicit differentiation: the meta-gradient from the condition that learning has converged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from .._conjugate_gradient import LinearSolution, cg
from .._diagnostics import free_diagnostics
from .._flags import Flag, Flags
from .._linear import Vector, central_difference, is_positive, jvp, solve
from .._loss import Loss
from .._must import Count, NotNegative, Positive
from .._solver._base import Solver
from .._tree import dot, norm, or_one, widened
from .._types import Aux, PyTree, Scalar
from .._wide import wide_arguments
from ._base import Estimator, MetaGradient, Phases, Starts, free_phase, start_from

Method: TypeAlias = Literal["cg", "neumann", "identity", "exact"]
UNSOLVED = 0.1  # the relative residual of the linear system from which on it is flagged
ROUND_OFF = 8.0  # units of it, of which a slope that a solver can reach no further is made
AWAY = 0.1  # how far from its minimum phi may be, in units of its own size, unless the slope
SMALL = 0.01  # of the inner loss is at most so large as that of the outer one
LARGEST = 4096  # weights, of which "exact" makes a square matrix


@dataclass(frozen=True)
class Implicit(Estimator):
    """The gradient at a minimiser of the inner loss, by the implicit function theorem.

        dL_out/dtheta - (d2 L_in / dphi dtheta)' u,    (H + damping) u = dL_out/dphi,

    and the same by z, with `H = d2 L_in / dphi2`, all at the phi where the free phase stopped:
    exact where that is a minimiser and u solves its equation. An init that is learned gets no
    gradient.

    | method   | u                                         | known as                              |
    |----------|-------------------------------------------|---------------------------------------|
    | cg       | conjugate gradient                        | Pedregosa, 2016; iMAML (Rajeswaran    |
    |          |                                           | et al., 2019), whose H holds lambda   |
    | neumann  | `rate * sum_k (1 - rate H)^k dL_out/dphi` | recurrent backpropagation (Liao et    |
    |          |                                           | al., 2018; Lorraine et al., 2020)     |
    | identity | `dL_out/dphi`                             | T1-T2 (Luketina et al., 2016)         |
    | exact    | by the matrix H itself, for small phi     |                                       |

    The "Hessian-free" iMAML of the published tables is another thing than `hessian_free` here: its
    *learner* is a Newton-CG method. It is the solver `newton_cg(...)` with `Implicit("cg")`.

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
            raised, and the gradient is NaN instead, with `curvature` in the aux not positive: a
            gradient of a phi that is no minimum must not pass for one.

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

    method: Method = "cg"
    iterations: Count = 20
    damping: NotNegative = 0.0
    rate: Positive | None = None
    hessian_free: bool = False
    by_z: ClassVar[bool] = True
    warm_start: ClassVar[bool] = True
    through: ClassVar[tuple[str, ...]] = ("inner", "outer")

    def __post_init__(self) -> None:
        if self.method == "neumann" and self.rate is None:
            raise ValueError(
                f"rate: the Neumann series needs a positive one, not {self.rate}; the learning "
                "rate of the inner loop is a good choice."
            )

    def value_and_grad(self, loss: Loss, solver: Solver, starts: Starts = None) -> MetaGradient:
        """The meta-gradient of one task.

        Its aux: inner, outer, residual; `linear_residual`, `|(H + damping) u - b| / |b|`;
        `iterations` taken; `curvature`, the smallest that cg met, or that along u. It is flagged
        "unbounded" where that is negative, or, for "exact", any other is; "unconverged" where the
        inner loss has a slope that would lead phi away by more than a tenth of itself, at that
        curvature, or the linear residual is not small.
        """
        free = free_phase(loss, solver, starts)
        loss = loss.with_state(free.model)
        phi, unravel = ravel_pytree(free.phi)
        product = central_difference if self.hessian_free else jvp
        slope = jax.grad(lambda x: loss.inner(unravel(x)))
        b = jax.grad(lambda x: loss.outer(unravel(x)))(phi)
        u = self._solve(lambda v: product(slope, phi, v) + self.damping * v, b)

        def pulled(theta: PyTree, z: PyTree) -> Scalar:
            at = loss.at(theta, z)
            inner = product(lambda x: at.inner(unravel(x)), phi, u.x)
            return at.outer(unravel(phi)) - inner

        # A product that is a difference is one of narrow gradients, where theta is narrow.
        at = wide_arguments(loss, free.phi) if self.hessian_free else (loss.theta, loss.z)
        grads = jax.grad(pulled, (0, 1), allow_int=True)(*at)
        # Not "curvature <= 0", which a NaN passes.
        indefinite = ~(u.curvature >= 0) & (self.method == "cg")
        grads = jax.tree.map(lambda g: _nan_where(indefinite, g), grads)
        aux = free_diagnostics(loss, free.phi)
        aux |= {k: getattr(u, k) for k in ("linear_residual", "iterations", "curvature")}
        # What round-off of phi leaves of a slope, whatever the units of the two losses.
        round_off = ROUND_OFF * jnp.finfo(phi.dtype).eps * norm(product(slope, phi, phi))
        near = jnp.maximum(AWAY * u.curvature * norm(phi), round_off)
        aux["flags"] = self._flags(aux, norm(b), near, u.definite)
        return MetaGradient(aux["outer"], grads[0], grads[1], aux, Phases(start_from(free)))

    def _flags(self, aux: Aux, size: Scalar, near: Scalar, definite: Flag) -> Flags:
        """Where the outer loss has a slope of this `size`. Each comparison is one NaN fails.

        A residual below `near` is one of a phi that is as good as at its minimum.
        """
        settled = aux["residual"] <= jnp.maximum(SMALL * size, near)
        if self.method != "identity":  # which does not solve, nor claims to
            settled &= aux["linear_residual"] <= UNSOLVED
        pulled = ~(size == 0)  # else nothing is to come through phi
        bounded = (aux["curvature"] >= 0) & definite
        return Flags(unbounded=pulled & ~bounded, unconverged=pulled & ~settled)

    def check_aux(self, aux: Aux) -> None:
        """Raise a `ValueError` where cg met negative curvature."""
        if self.method == "cg" and not aux["curvature"] >= 0:
            raise ValueError(
                f"solver: the inner Hessian has negative curvature ({aux['curvature']:.3g}) where "
                "learning stopped, so that is no minimum and conjugate gradient does not apply: "
                "learn for longer, add damping (above the curvature) or a regulariser, or use "
                "Contrastive."
            )
        super().check_aux(aux)

    def _solve(self, matvec: Callable[[Vector], Vector], b: Vector) -> LinearSolution:
        if self.method == "cg":
            return cg(matvec, b, self.iterations)
        u, iterations, definite = b, 0, jnp.array(True)
        if self.method == "exact":
            matrix = _dense(matvec, b)
            u, definite = solve(matrix, b), is_positive(matrix)
        elif self.method == "neumann":
            rate, iterations = self.rate or 0.0, self.iterations
            u = jax.lax.fori_loop(0, iterations, lambda _, u: u + rate * (b - matvec(u)), 0 * b)
        product = matvec(u)
        unit = widened(u) / or_one(norm(u))
        curvature = dot(unit, product) / or_one(norm(u))
        residual = norm(product - b) / or_one(norm(b))
        return LinearSolution(u, jnp.array(iterations), residual, curvature, definite)


def _dense(matvec: Callable[[Vector], Vector], b: Vector) -> Float[Array, "n n"]:
    if b.size > LARGEST:
        raise ValueError(
            f"method: 'exact' makes a matrix of all pairs of the {b.size} weights, and is meant "
            f"for {LARGEST} at most; use 'cg'."
        )
    return jax.vmap(matvec)(jnp.eye(b.size, dtype=b.dtype))


def _nan_where(indefinite: jax.Array, grad: jax.Array) -> jax.Array:
    return grad if grad.dtype == jax.dtypes.float0 else jnp.where(indefinite, jnp.nan, grad)
