"""How wrong a contrastive meta-gradient can be: the paper's theorem, with its constants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from .._check import explained
from .._linear import Vector
from .._loss import Loss
from .._must import positive
from .._problem import Problem
from .._types import PyTree

Numbers: TypeAlias = Float[Array, "..."] | float  # one, or an array of them
Matrix: TypeAlias = Float[Array, "n m"]


class Constants(NamedTuple):
    """Of the theorem: Lipschitz constants of `dL_in/dtheta` and `dL_out/dtheta` in phi, and C."""

    b_in: Numbers
    b_out: Numbers
    c: Numbers


def bound(
    delta: Numbers,
    delta_prime: Numbers,
    beta: Annotated[float, positive()] | Float[Array, "..."],
    constants: Constants,
) -> Numbers:
    """The most by which a forward-difference contrastive meta-gradient can err.

        |estimate - dL_out/dtheta| <= B_in (delta + delta') / beta + B_out delta' + C beta/(1+beta)

    Args:
        delta: distance of the free phase from its minimiser.
        delta_prime: distance of the nudged phase from its own.
        beta: the nudge, positive.
        constants: B_in, B_out and C of the problem, see `quadratic_constants`.

    Raises:
        ValueError: a beta that is known and not positive.

    Reference: Zucchet, Schug, von Oswald, Zhao, Sacramento, "A contrastive rule for
    meta-learning", NeurIPS 2022.

    Example:
        >>> bound(0.01, 0.01, beta=1.0, constants=Constants(b_in=1.0, b_out=1.0, c=2.0))
        1.03
    """
    b_in, b_out, c = constants
    return b_in * (delta + delta_prime) / beta + b_out * delta_prime + c * beta / (1 + beta)


def best_beta(delta: Numbers, delta_prime: Numbers, constants: Constants) -> Float[Array, "..."]:
    """The beta at which `bound` is least.

        sqrt(a) / (sqrt(C) - sqrt(a)),   where it is 2 sqrt(a C) - a + B_out delta',

    with `a = B_in (delta + delta')`. So beta and the least error both go as sqrt(delta). If
    `a >= C` the bound only falls with beta: infinity.

    Example:
        >>> round(float(best_beta(0.01, 0.0, Constants(b_in=1.0, b_out=1.0, c=1.0))), 4)
        0.1111
    """
    a = jnp.sqrt(jnp.asarray(constants.b_in * (delta + delta_prime)))
    c = jnp.sqrt(jnp.asarray(constants.c))
    return jnp.where(a < c, a / jnp.where(a < c, c - a, 1.0), jnp.inf)


def quadratic_constants(problem: Problem, theta: PyTree, z: PyTree) -> Constants:
    """Constants of the theorem for losses that are quadratic in phi, and bilinear with theta.

    With `H = d2 L_in/dphi2`, `A = d2 L_out/dphi2`, both positive definite, `P = d2 L_in/dphi
    dtheta`, `Q = d2 L_out/dphi dtheta`, none of which depends on phi, and `g = dL_out/dphi` at the
    minimiser of the inner loss,

        B_in = |P|,   B_out = |Q|,   C = (|P| |A| |H^-1 g| + |Q| |g|) / min(mu, nu)

    in spectral norms, with mu and nu the least eigenvalues of H and A. What depends on theta alone
    plays no part. C is that of this theta and task, by the following proof.

    The minimisers are `phi_beta = phi_0 - beta (H + beta A)^-1 g`, so that without solver error

        estimate - truth = P' [(H + beta A)^-1 - H^-1] g + beta Q' (H + beta A)^-1 g
                         = -beta P' (H + beta A)^-1 A H^-1 g + beta Q' (H + beta A)^-1 g

    up to one sign, whose norm is at most `(|P| |A| |H^-1 g| + |Q| |g|) beta |(H + beta A)^-1|`; and
    `|(H + beta A)^-1| <= 1 / (mu + beta nu) <= 1 / ((1 + beta) min(mu, nu))`. Solver error adds
    `[P'(e_0 - e_beta) - beta Q' e_beta] / beta`, at most `B_in (delta + delta')/beta + B_out
    delta'`. In one dimension with H = A and Q = 0 the second step is an equality, so no smaller C
    holds for the class.

    Raises:
        ValueError: with concrete arrays: a Hessian that is not positive definite, or second
            derivatives that change with phi.

    Example:
        >>> problem = Problem(
        ...     init=lambda theta, task: theta,
        ...     inner=lambda phi, theta, task: (phi - task) ** 2 + (phi - theta) ** 2,
        ...     outer=lambda phi, theta, task: phi**2,
        ... )
        >>> quadratic_constants(problem, jnp.array(1.0), jnp.array(3.0))  # phi_0 = 2, g = 4
        Constants(b_in=Array(2., ...), b_out=Array(0., ...), c=Array(2., ...))
    """
    with explained(Loss(problem, theta, z)):
        return _constants(problem, theta, z)


def _constants(problem: Problem, theta: PyTree, z: PyTree) -> Constants:
    x, unravel = ravel_pytree(jax.tree.map(jnp.asarray, problem.init(theta, z)))
    loss = Loss(problem, theta, z)
    second = _second_derivatives(loss, unravel)
    h, a, p, q = second(x)
    _check_quadratic((h, a, p, q), second(x + 1.0))
    slope_in, slope_out = (jax.grad(lambda x, f=f: f(unravel(x))) for f in (loss.inner, loss.outer))
    g = slope_out(x - jnp.linalg.solve(h, slope_in(x)))
    norm = lambda matrix: jnp.linalg.norm(matrix, 2)
    weakest = jnp.minimum(jnp.linalg.eigvalsh(h)[0], jnp.linalg.eigvalsh(a)[0])
    _check_convex(weakest)
    size = jnp.linalg.norm
    c = (norm(p) * norm(a) * size(jnp.linalg.solve(h, g)) + norm(q) * size(g)) / weakest
    return Constants(norm(p), norm(q), c)


def _second_derivatives(
    loss: Loss, unravel: Callable[[Vector], PyTree]
) -> Callable[[Vector], tuple[Matrix, ...]]:
    """`flat phi -> (H, A, P, Q)`."""
    flat_theta, unravel_theta = ravel_pytree(loss.theta)

    def losses(x: Vector, flat_theta: Vector) -> Float[Array, "2"]:
        at = replace(loss, theta=unravel_theta(flat_theta))
        return jnp.stack([at.inner(unravel(x)), at.outer(unravel(x))])

    slopes = jax.jacrev(losses)

    def second(x: Vector) -> tuple[Matrix, ...]:
        (h, a), (p, q) = (jax.jacfwd(slopes, i)(x, flat_theta) for i in (0, 1))
        return h, a, p, q

    return jax.jit(second)


def _check_quadratic(here: tuple[Matrix, ...], there: tuple[Matrix, ...]) -> None:
    if isinstance(here[0], jax.core.Tracer):
        return
    for name, x, y in zip(("inner", "outer") * 2, here, there, strict=True):
        if not jnp.allclose(x, y, rtol=1e-4, atol=1e-4 * (1 + jnp.max(jnp.abs(x)))):
            raise ValueError(
                f"problem.{name}: its second derivatives change with phi, so the constants are not "
                "those of a quadratic; measure the error with accuracy.compare instead."
            )


def _check_convex(weakest: Float[Array, ""]) -> None:
    if not isinstance(weakest, jax.core.Tracer) and not weakest > 0:
        raise ValueError(
            f"problem: a Hessian has the eigenvalue {weakest:.3g}, but the theorem needs both "
            "losses strongly convex in phi; add a regulariser."
        )
