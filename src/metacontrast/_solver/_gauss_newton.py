"""Least-squares learners with few data: Levenberg-Marquardt in sample space."""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from .._linear import Flat, Vector, flat
from .._loss import Loss
from .._problem import Split, Squares
from .._types import PyTree, Scalar, Step
from ._base import Solver, State, check_positive, check_positive_int


@dataclass(frozen=True)
class GaussNewton(Solver):
    """What `gauss_newton` returns. Its memory: mu."""

    damping: float

    def init(self, loss: Loss, phi: PyTree, memory: PyTree = None) -> State:
        """mu is the damping, in the arithmetic of phi."""
        return State(phi, jnp.asarray(self.damping, jnp.result_type(*jax.tree.leaves(phi))))

    def step(self, loss: Loss, state: State, t: Step) -> State:
        """One step, taken if it does not raise the loss."""
        at, mu, split = flat(loss, state.phi), state.memory, _require_split(loss)
        rows = [_rows(squares, state.phi) for squares in split.squares]
        sign, r, jac = (jnp.concatenate(parts) for parts in zip(*rows, strict=True))
        lam, slope = _rest(split, at)
        # In units of D^(-1/2) the Jacobian is touched three times and stored once.
        unit = 1 / jnp.sqrt(lam * (1 + mu))
        k, pull = jac * unit[None, :], unit * slope
        dual = jnp.linalg.solve(jnp.diag(sign) + k @ k.T, r - k @ pull)
        new = at.x - unit * (pull + dual @ k)
        before = jnp.sum(sign * r**2) + _rest_value(split, at, at.x)
        after = _value(split, at, new)
        # To within round-off: at the minimum the loss no longer tells good steps from bad, but
        # the steps still bring phi closer, and the contrast needs phi, not the loss.
        taken = after <= before + 8 * jnp.finfo(before.dtype).eps * jnp.abs(before)
        new = jnp.where(taken, new, at.x).astype(at.x.dtype)  # theta may be of a wider type
        return State(at.unravel(new), jnp.where(taken, mu / 3, mu * 4))


def gauss_newton(steps: int, damping: float = 1.0) -> Solver:
    """Levenberg-Marquardt steps for least-squares learners with fewer data than weights.

    With `r` all residuals, `J` their derivatives by phi, `S` = 1 on the training data and the sign
    of beta on the test data, `D = lambda (1 + mu)`, and `p` half the gradient of all that is no
    square (the pull of the prior, a linear nudge), a step is

        -(J' S J + D)^-1 (J' S r + p) = -D^-1 [ p + J' (S + J D^-1 J')^-1 (r - J D^-1 p) ],

    a solve of the size of the data, not of the weights (Woodbury). A step that raises the loss is
    not taken and raises mu fourfold; one that is taken lowers it threefold. Works for any sign of
    beta and for linear nudges; meant for an `inner` that is a `LeastSquares` with a prior, and, for
    the nudge of the paper, an `outer` that is one too.

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
        ...     init=lambda theta, task: theta.omega,
        ...     inner=mc.LeastSquares(residual, lambda task: task.train, prior=lambda theta: theta),
        ...     outer=mc.LeastSquares(residual, lambda task: task.test),
        ... )
        >>> data = mc.Data(jnp.eye(2, 3), jnp.array([2.0, 4.0]))
        >>> theta, task = mc.Synapse(jnp.zeros(3), 0.0), mc.Task(data, data)
        >>> solution = mc.solve_inner(problem, mc.gauss_newton(9), theta, task)
        >>> solution.phi.round(2).tolist()
        [1.0, 2.0, 0.0]
    """
    check_positive_int("steps", steps)
    check_positive("damping", damping)
    return GaussNewton(damping, steps=steps)


def _require_split(loss: Loss) -> Split:
    split, free = loss.split(), replace(loss, nudge=None).split()
    if split is None or free is None or not free.rests:
        raise TypeError(
            "solver: gauss_newton needs a problem whose inner loss is a LeastSquares with a prior, "
            "and, unless the nudge is linear, whose outer loss is a LeastSquares too; for other "
            "losses use descend or until_converged."
        )
    return split


def _rows(
    squares: Squares, phi: PyTree
) -> tuple[Float[Array, " m"], Float[Array, " m"], Float[Array, "m n"]]:
    """The sign of the weight; residuals, and their derivatives, times the root of its size."""
    scale = jnp.sqrt(jnp.abs(squares.weight))

    def one(phi: PyTree, example: PyTree) -> Float[Array, " k"]:
        return scale * jnp.ravel(squares.residual(phi, example))

    # One example at a time: the derivative of all residuals at once would be as many backward
    # passes through all the data, and mostly zeros.
    r = jnp.ravel(jax.vmap(one, (None, 0))(phi, squares.examples))
    trees = jax.vmap(jax.jacrev(one), (None, 0))(phi, squares.examples)
    jac = jnp.concatenate([leaf.reshape(r.size, -1) for leaf in jax.tree.leaves(trees)], axis=1)
    return jnp.full(r.shape, jnp.sign(squares.weight)), r, jac


def _rest(split: Split, at: Flat) -> tuple[Vector, Vector]:
    """Half the curvature and half the slope of all that is no square."""
    phi = at.unravel(at.x)
    stiffnesses = [r.weight * ravel_pytree(r.stiffness(phi))[0] for r in split.rests]
    lam = sum(stiffnesses, jnp.zeros_like(at.x))
    return lam, jax.grad(lambda x: _rest_value(split, at, x))(at.x) / 2


def _rest_value(split: Split, at: Flat, x: Vector) -> Scalar:
    return sum((r.weight * r.value(at.unravel(x)) for r in split.rests), jnp.zeros(()))


def _value(split: Split, at: Flat, x: Vector) -> Scalar:
    phi = at.unravel(x)
    values = [
        s.weight * jnp.sum(jax.vmap(s.residual, (None, 0))(phi, s.examples) ** 2)
        for s in split.squares
    ]
    return sum(values, _rest_value(split, at, x))
