"""The differentiable minimiser as an adjoint of optimistix."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import optimistix as optx

from .._contrast import linear_contrast
from .._loss import Loss
from .._problem import Problem
from .._solver._function import as_solver
from .._stencil import stencil
from .._types import PyTree, Scalar

# Of optimistix: all that goes into the loop which runs a solver, and the loop.
Inputs: TypeAlias = tuple[PyTree, ...]
Loop: TypeAlias = Callable[[Inputs], tuple[PyTree, PyTree]]


class ContrastiveAdjoint(optx.AbstractAdjoint):
    """`optimistix.minimise(..., adjoint=ContrastiveAdjoint(beta))`: differentiate by solving again.

    The reverse rule of `argmin` for any minimiser of optimistix: two more solves from the minimum,
    with `fn(y, args) +- beta <v / |v|, y>`, contrasted by their derivative with respect to `args`
    and to what `fn` closes over. No second derivatives and no linear solve; the initial guess gets
    no gradient. The minimiser's tolerance is divided by beta: make it tight.

    Args:
        beta: length of the nudge, in units of the gradient of `fn` by `y`; positive.

    Raises:
        ValueError: beta not positive; or used with another problem than `minimise`.

    Example:
        >>> import jax, jax.numpy as jnp, optimistix as optx
        >>> from metacontrast.optimistix import ContrastiveAdjoint
        >>> def centre(theta):
        ...     fn = lambda y, theta: (y - 4.0) ** 2 + theta * y**2
        ...     solver, adjoint = optx.BFGS(1e-6, 1e-6), ContrastiveAdjoint(beta=0.1)
        ...     return optx.minimise(fn, solver, jnp.array(0.0), theta, adjoint=adjoint).value
        >>> round(float(jax.grad(centre)(jnp.array(1.0))), 2)  # of 4 / (1 + theta)
        -1.0
    """

    beta: float = 0.1

    def __check_init__(self) -> None:
        if not self.beta > 0:
            raise ValueError(f"beta: must be positive, not {self.beta}; try 0.1.")

    def apply(
        self,
        primal_fn: Loop,
        rewrite_fn: Callable[..., PyTree],
        inputs: Inputs,
        tags: frozenset[object],
    ) -> tuple[PyTree, PyTree]:
        """Called by optimistix with its loop, `primal_fn`, and everything that goes into it."""
        fn, solver, _, args, *_ = inputs
        if not isinstance(solver, optx.AbstractMinimiser):
            raise ValueError(
                "adjoint: ContrastiveAdjoint differentiates minima, and "
                f"{type(solver).__name__} looks for something else; use optimistix.minimise, or "
                "another adjoint."
            )
        # Solved without a gradient, which is attached to the minimiser afterwards: so the number of
        # steps and the other things optimistix reports stay out of it.
        loop = partial(eqxi.while_loop, kind="lax")
        fixed = jax.tree.map(_without_gradient, (*inputs, loop))
        y, report = primal_fn(fixed)
        return _with_gradient((fn, args), y, primal_fn, fixed, self.beta), report


def _without_gradient(x: PyTree) -> PyTree:
    return jax.lax.stop_gradient(x) if eqx.is_array(x) else x


# The minimiser y, as it is, with a reverse rule.
@eqx.filter_custom_vjp
def _with_gradient(
    fn_and_args: tuple[PyTree, PyTree], y: PyTree, loop: Loop, inputs: Inputs, beta: float
) -> PyTree:
    return y


def _forward(
    perturbed: PyTree, fn_and_args: tuple[PyTree, PyTree], y: PyTree, *rest: PyTree
) -> tuple[PyTree, None]:
    return y, None


def _backward(
    _: None,
    v: PyTree,
    perturbed: PyTree,
    fn_and_args: tuple[PyTree, PyTree],
    y: PyTree,
    loop: Loop,
    inputs: Inputs,
    beta: float,
) -> tuple[PyTree, PyTree]:
    """The linear contrast of a problem whose theta is what `fn` closes over and whose z is args."""
    fn, solver, _, args, *rest = inputs
    (theta, z), others = eqx.partition((fn, args), eqx.is_inexact_array)

    def inner(y: PyTree, theta: PyTree, z: PyTree) -> Scalar:
        fn, args = eqx.combine((theta, z), others)
        return fn(y, args)[0]

    def solve(loss: Loss, y: PyTree) -> PyTree:
        nudged = lambda y, args: (loss(y), fn(y, args)[1])
        return loop((nudged, solver, y, args, *rest))[0]

    problem = Problem(lambda theta, z: y, inner, outer=lambda y, theta, z: jnp.zeros(()))
    v = jax.tree.map(lambda p, g: jnp.zeros_like(p) if g is None else g, y, v)
    points = stencil("symmetric", None, beta)
    return linear_contrast(Loss(problem, theta, z), y, v, as_solver(solve), points)[0]


_with_gradient.def_fwd(_forward)
_with_gradient.def_bwd(_backward)
