"""The differentiable minimiser as an adjoint of optimistix."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import optax
import optimistix as optx

from ._problem import PyTree


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
        >>> import jax, jax.numpy as jnp, optimistix as optx, metacontrast as mc
        >>> def centre(theta):
        ...     fn = lambda y, theta: (y - 4.0) ** 2 + theta * y**2
        ...     solver, adjoint = optx.BFGS(1e-6, 1e-6), mc.ContrastiveAdjoint(beta=0.1)
        ...     return optx.minimise(fn, solver, jnp.array(0.0), theta, adjoint=adjoint).value
        >>> round(float(jax.grad(centre)(jnp.array(1.0))), 2)  # of 4 / (1 + theta)
        -1.0
    """

    beta: float = 0.1

    def __check_init__(self) -> None:
        if not self.beta > 0:
            raise ValueError(f"beta: must be positive, not {self.beta}; try 0.1.")

    def apply(
        self, primal_fn: Callable[..., Any], rewrite_fn: Callable[..., Any], inputs: Any, tags: Any
    ) -> Any:
        """Called by optimistix with its loop, `primal_fn`, and everything that goes into it."""
        del rewrite_fn, tags
        fn, solver, y0, args, *rest = inputs
        shape = eqx.filter_eval_shape(lambda y, args: fn(y, args)[0], y0, args)
        if getattr(shape, "shape", None) != ():
            raise ValueError(
                "adjoint: ContrastiveAdjoint differentiates minima; this problem is none, as its "
                "function does not return a scalar. Use optimistix.minimise, or another adjoint."
            )
        loop = partial(eqxi.while_loop, kind="lax")
        # Found without a gradient, which is attached to it afterwards: so the number of steps and
        # the other things optimistix reports stay out of it.
        fixed = jax.tree.map(_stopped, (fn, solver, y0, args, *rest, loop))
        y, told = primal_fn(fixed)
        return _attached((fn, args), y, primal_fn, fixed, self.beta), told


def _stopped(x: Any) -> Any:
    return jax.lax.stop_gradient(x) if eqx.is_array(x) else x


def _forward(perturbed: Any, fn_and_args: Any, y: PyTree, *others: Any) -> tuple[PyTree, None]:
    return y, None


def _backward(
    _: None,
    v: PyTree,
    perturbed: Any,
    fn_and_args: Any,
    y: PyTree,
    primal_fn: Any,
    fixed: Any,
    beta: float,
) -> Any:
    fn, solver, _, args, *rest = fixed
    v = jax.tree.map(lambda p, g: jnp.zeros_like(p) if g is None else g, y, v)
    size = optax.tree.norm(v)
    along = optax.tree.scale(1 / jnp.where(size > 0, size, 1.0), v)

    def nudged(b: float) -> Callable[..., Any]:
        def at(y: PyTree, args: PyTree) -> Any:
            value, aux = fn(y, args)
            return value + b * optax.tree.vdot(along, y), aux

        return at

    ahead, behind = (primal_fn((nudged(b), solver, y, args, *rest))[0] for b in (beta, -beta))

    def contrast(fn_and_args: Any) -> Any:
        fn, args = fn_and_args
        return (fn(ahead, args)[0] - fn(behind, args)[0]) * (size / (2 * beta))

    return eqx.filter_grad(contrast)(fn_and_args)


# The minimiser y, as it is, with a reverse rule.
_attached = eqx.filter_custom_vjp(lambda fn_and_args, y, primal_fn, fixed, beta: y)
_attached.def_fwd(_forward)
_attached.def_bwd(_backward)
