"""Least-squares learners: Levenberg-Marquardt, in the space of the data or of the weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from .._linear import solve
from .._loss import Loss
from .._must import Count, Positive
from .._precision import matmul
from .._problem import Split, Squares
from .._types import PyTree, Step
from ._base import Solver, State


@dataclass(frozen=True)
class GaussNewton(Solver):
    """What `gauss_newton` returns. Its memory: mu."""

    damping: float

    def init(self, loss: Loss, phi: PyTree, memory: PyTree = None) -> State:
        """mu is the damping, in the arithmetic of phi."""
        return State(phi, jnp.asarray(self.damping, jnp.result_type(*jax.tree.leaves(phi))))

    def step(self, loss: Loss, state: State, t: Step) -> State:
        """One step, taken if it does not raise the loss."""
        (x, unravel), mu = ravel_pytree(state.phi), state.memory
        split = _require_split(loss, state.phi)
        sign, r, jac = _rows(split.squares, state.phi)
        pull, lam = ravel_pytree(split.slope)[0] / 2, ravel_pytree(split.stiffness)[0]
        # In units of D^(-1/2) the Jacobian is touched three times and stored once.
        unit = 1 / jnp.sqrt(lam * (1 + mu))
        k, p = jac * unit[None, :], unit * pull
        d = -unit * (_by_data if len(r) <= x.size else _by_weights)(k, p, r, sign)
        new = unravel((x + d).astype(x.dtype))  # theta may be of a wider type
        # What is no square is `sum lam (x - centre)^2` and a constant, with x - centre = pull/lam.
        value = lambda r, d: jnp.sum(sign * r**2) + jnp.sum((pull + lam * d) ** 2 / lam)
        before, after = value(r, 0.0), value(_residuals(split.squares, new), d)
        # To within round-off: at the minimum the loss no longer tells good steps from bad, but
        # the steps still bring phi closer, and the contrast needs phi, not the loss.
        taken = after <= before + 8 * jnp.finfo(before.dtype).eps * jnp.abs(before)
        phi = jax.tree.map(lambda a, b: jnp.where(taken, a, b), new, state.phi)
        return State(phi, jnp.where(taken, mu / 3, mu * 4))


def _by_data(k: jax.Array, p: jax.Array, r: jax.Array, sign: jax.Array) -> jax.Array:
    """`(K' S K + 1)^-1 (K' S r + p)` by a solve with as many rows as there are residuals."""
    gram, off = jnp.diag(sign) + matmul(k, k.T), r - matmul(k, p)
    return p + matmul(solve(gram, off), k)


def _by_weights(k: jax.Array, p: jax.Array, r: jax.Array, sign: jax.Array) -> jax.Array:
    """The same, by one with as many rows as there are weights."""
    signed = sign[:, None] * k
    return solve(jnp.eye(k.shape[1], dtype=k.dtype) + matmul(k.T, signed), matmul(r, signed) + p)


def gauss_newton(steps: Count, damping: Positive = 1.0) -> Solver:
    """Levenberg-Marquardt steps for least-squares learners.

    With `r` all residuals, `J` their derivatives by phi, `S` = 1 on the training data and the sign
    of beta on the test data, `D = lambda (1 + mu)`, and `p` half the gradient of all that is no
    square (the pull of the prior, a linear nudge), a step is

        -(J' S J + D)^-1 (J' S r + p) = -D^-1 [ p + J' (S + J D^-1 J')^-1 (r - J D^-1 p) ],

    a solve of the size of the data (Woodbury), or of the weights where those are fewer. A step that
    raises the loss is not taken and raises mu fourfold; one that is taken lowers it threefold.
    Works for any sign of beta and for linear nudges; meant for an `inner` that is a `LeastSquares`
    with a prior, and, for the nudge of the paper, an `outer` that is one too.

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
    return GaussNewton(damping, steps=steps)


def _require_split(loss: Loss, phi: PyTree) -> Split:
    split, free = loss.split(phi), replace(loss, nudge=None).split(phi)
    if split is None or free is None or free.stiffness is None:
        raise TypeError(
            "solver: gauss_newton needs a problem whose inner loss is a LeastSquares with a prior, "
            "and, unless the nudge is linear, whose outer loss is a LeastSquares too; for other "
            "losses use descend or until_converged."
        )
    return split


def _residuals(squares: Sequence[Squares], phi: PyTree) -> Float[Array, " m"]:
    """Times the roots of the sizes of their weights."""
    each = [jax.vmap(_scaled(s), (None, 0))(phi, s.examples) for s in squares]
    return jnp.concatenate([jnp.ravel(r) for r in each])


def _rows(
    squares: Sequence[Squares], phi: PyTree
) -> tuple[Float[Array, " m"], Float[Array, " m"], Float[Array, "m n"]]:
    """The signs of the weights; `_residuals`; and their derivatives."""
    # One example at a time: the derivative of all residuals at once would be as many backward
    # passes through all the data, and mostly zeros.
    trees = [jax.vmap(jax.jacrev(_scaled(s)), (None, 0))(phi, s.examples) for s in squares]
    flat = lambda leaf, p: leaf.reshape(-1, p.size)
    leaves = [jax.tree.leaves(jax.tree.map(flat, tree, phi)) for tree in trees]
    blocks = [jnp.concatenate(row, axis=1) for row in leaves]
    signs = [jnp.full(len(jac), jnp.sign(s.weight)) for s, jac in zip(squares, blocks, strict=True)]
    return jnp.concatenate(signs), _residuals(squares, phi), jnp.concatenate(blocks)


def _scaled(squares: Squares) -> Callable[[PyTree, PyTree], Float[Array, " k"]]:
    """The residual of one example as a vector, times the root of the size of the weight."""
    root = jnp.sqrt(jnp.abs(squares.weight))
    return lambda phi, example: root * jnp.ravel(squares.residual(phi, example))
