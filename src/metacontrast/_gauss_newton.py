"""Least-squares learners with few data: Levenberg-Marquardt in sample space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from ._problem import Loss, PyTree, is_free
from ._solve import Solution, Solver, positive
from .slow import attraction
from .slow._attraction import broadcast


@dataclass(frozen=True)
class LeastSquares:
    """A loss that is a sum of squares, and says so, for `Problem(inner=..., outer=...)`.

        L(phi, theta, z) = sum_i residual(phi, theta, example_i)^2 + attraction(phi, *prior(theta))

    To every solver it is a loss like any other; `gauss_newton` also uses its parts.

    Args:
        residual: `(phi, theta, example) -> array` of any shape, for one example.
        data: `z -> examples`, a pytree whose leaves have one row an example.
        prior: `theta -> (omega, log_lam)`, of the complex synapse. Default: none.

    Example:
        >>> loss = LeastSquares(lambda phi, theta, x: phi - x, data=lambda z: z)
        >>> float(loss(jnp.array(1.0), None, jnp.array([0.0, 3.0])))
        5.0
    """

    residual: Callable[[PyTree, PyTree, PyTree], jax.Array]
    data: Callable[[PyTree], PyTree]
    prior: Callable[[PyTree], tuple[PyTree, PyTree]] | None = None

    def __call__(self, phi: PyTree, theta: PyTree, z: PyTree) -> jax.Array:
        """The scalar loss."""
        residuals = jax.vmap(lambda example: self.residual(phi, theta, example))(self.data(z))
        squares = jnp.sum(residuals**2)
        return squares if self.prior is None else squares + attraction(phi, *self.prior(theta))


def gauss_newton(steps: int, damping: float = 1.0) -> Solver:
    """Levenberg-Marquardt steps for least-squares learners with fewer data than weights.

    With `r` all residuals, `J` their derivatives by phi, `W` = 1 on the training data and beta on
    the test data, `D = lambda (1 + mu)`, and `g` half the loss's gradient, a step is

        -(J' W J + D)^-1 g = -D^-1 g + D^-1 J' (W^-1 + J D^-1 J')^-1 J D^-1 g,

    a solve of the size of the data, not of the weights (Woodbury). A step that raises the loss is
    not taken and raises mu fourfold; one that is taken lowers it threefold. Works on all data, for
    any sign of beta; meant for `inner` and `outer` that are `LeastSquares`, `inner` with a prior.

    Args:
        steps: how many, at least 1; 10 to 20 replace hundreds of Adam's.
        damping: the first mu, in units of lambda; positive.

    Raises:
        TypeError: when the loss is not made of `LeastSquares` with a prior.

    Reference: Levenberg, 1944; Marquardt, 1963; in sample space: Ren and Goldfarb, 2019.

    Example:
        >>> import metacontrast as mc
        >>> residual = lambda phi, theta, example: phi @ example.x - example.y
        >>> problem = mc.Problem(
        ...     init=lambda theta, task: theta[0],
        ...     inner=LeastSquares(residual, lambda task: task.train, prior=lambda theta: theta),
        ...     outer=LeastSquares(residual, lambda task: task.test),
        ... )
        >>> data = mc.Data(jnp.eye(2, 3), jnp.array([2.0, 4.0]))
        >>> solution = mc.learn(problem, gauss_newton(9), (jnp.zeros(3), 0.0), mc.Task(data, data))
        >>> solution.phi.round(2).tolist()
        [1.0, 2.0, 0.0]
    """
    positive("steps", steps)
    if not damping > 0:
        raise ValueError(f"damping: must be positive, not {damping}.")

    def solve(loss: Any, phi0: PyTree, state: PyTree = None) -> Solution:
        lam, omega, residuals = _parts(loss, phi0)
        flat0, unravel = ravel_pytree(phi0)

        def value(flat: jax.Array) -> jax.Array:
            squares = [sign * jnp.sum(r(unravel(flat)) ** 2) for sign, r, _ in residuals]
            return sum(squares, jnp.sum(lam * (flat - omega) ** 2))

        def step(carry: tuple[jax.Array, jax.Array, jax.Array], _: None) -> Any:
            flat, mu, now = carry
            rows = [(sign, r(unravel(flat)), jac(unravel(flat))) for sign, r, jac in residuals]
            signs = jnp.concatenate([jnp.full(r.shape, sign) for sign, r, _ in rows])
            r = jnp.concatenate([r for _, r, _ in rows])
            jac = jnp.concatenate([jac for _, _, jac in rows])
            # In units of D^(-1/2) the Jacobian is touched three times and stored once.
            unit = 1 / jnp.sqrt(lam * (1 + mu))
            k = jac * unit[None, :]
            pull, gram = unit * lam * (flat - omega), k @ k.T
            push = signs * r
            dual = jnp.linalg.solve(jnp.diag(signs) + gram, gram @ push + k @ pull)
            newton = unit * (pull + (push - dual) @ k)
            then = value(flat - newton)
            # To within round-off: at the minimum the loss no longer tells good steps from bad, but
            # the steps still bring phi closer, and the contrast needs phi, not the loss.
            taken = then <= now + 8 * jnp.finfo(now.dtype).eps * jnp.abs(now)
            return (
                jnp.where(taken, flat - newton, flat),
                jnp.where(taken, mu / 3, mu * 4),
                jnp.where(taken, then, now),
            ), None

        mu0 = jnp.asarray(damping, flat0.dtype)
        (flat, _, _), _ = jax.lax.scan(step, (flat0, mu0, value(flat0)), length=steps)
        return Solution(unravel(flat), None, steps)

    return solve


def _parts(loss: Any, phi0: PyTree) -> tuple[jax.Array, jax.Array, list[Any]]:
    """lambda and omega, flat; and of each half of the data: sign, residuals, their derivatives."""
    halves = (loss.problem.inner, loss.problem.outer) if isinstance(loss, Loss) else (None, None)
    inner, outer = halves
    if not (isinstance(inner, LeastSquares) and isinstance(outer, LeastSquares) and inner.prior):
        raise TypeError(
            "solve: gauss_newton needs a problem whose inner and outer losses are LeastSquares, "
            "the inner one with a prior; for other losses use descend or until_converged."
        )
    omega, log_lam = inner.prior(loss.theta)
    lam = jnp.exp(ravel_pytree(broadcast(log_lam, phi0))[0])
    # A free phase has no test residuals, rather than residuals of weight nought.
    residuals = [_half(inner, loss, 1.0)] + (
        [] if is_free(loss.beta) else [_half(outer, loss, loss.beta)]
    )
    omega = jax.tree.map(jnp.zeros_like, phi0) if omega is None else omega
    return lam, ravel_pytree(omega)[0], residuals


def _half(part: LeastSquares, loss: Loss, weight: Any) -> tuple[Any, Any, Any]:
    """The sign of `weight`, and residuals and Jacobian as functions of phi, times sqrt|weight|."""
    scale = jnp.sqrt(jnp.abs(weight))
    examples = part.data(loss.z)

    def one(phi: PyTree, example: PyTree) -> jax.Array:
        return scale * jnp.ravel(part.residual(phi, loss.theta, example))

    def residuals(phi: PyTree) -> jax.Array:
        return jnp.ravel(jax.vmap(one, (None, 0))(phi, examples))

    def jacobian(phi: PyTree) -> jax.Array:
        # One example at a time: the derivative of all residuals at once would be as many backward
        # passes through all the data, and mostly zeros.
        trees = jax.vmap(jax.jacrev(one), (None, 0))(phi, examples)
        leaves = [
            leaf.reshape(-1, p.size)
            for leaf, p in zip(jax.tree.leaves(trees), jax.tree.leaves(phi), strict=True)
        ]
        return jnp.concatenate(leaves, axis=1)

    return jnp.sign(weight), residuals, jacobian
