"""Solvers with first derivatives that learn the curvature as they go."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from ._problem import PyTree
from ._solve import Solution, Solver, positive


def lbfgs(tol: float, max_steps: int = 200, memory: int = 10) -> Solver:
    """Limited-memory BFGS with a zoom line search, `optax.lbfgs`, on all data until converged.

    Each phase starts with no memory of the curvature, because that of another loss would mislead
    it. Under `vmap` all tasks run until the slowest one has converged.

    Args:
        tol: on the Euclidean norm of `dL/dphi`; positive. Below about the square root of the
            type's precision no line search can see the loss fall, and `max_steps` ends the run.
        max_steps: at most; the solution then says `converged=False`.
        memory: pairs of steps and gradients that are kept.

    Reference: Liu and Nocedal, 1989.

    Example:
        >>> loss = lambda x: jnp.sum((x**2 - 2.0) ** 2)
        >>> lbfgs(1e-4)(loss, jnp.array([1.0, 3.0])).phi.round(3).tolist()
        [1.414..., 1.414...]
    """
    tolerated(tol, max_steps)
    positive("memory", memory)
    optimizer = optax.lbfgs(memory_size=memory)

    def solve(loss: Any, phi0: PyTree, state: PyTree = None) -> Solution:
        # The line search has evaluated the loss where it stopped, and its state holds the gradient.
        known = optax.value_and_grad_from_state(loss)

        def unfinished(carry: tuple[PyTree, PyTree, jax.Array, jax.Array]) -> jax.Array:
            _, _, residual, t = carry
            return (residual > tol) & (t < max_steps)

        def step(carry: tuple[PyTree, PyTree, jax.Array, jax.Array]) -> Any:
            phi, state, _, t = carry
            value, grad = known(phi, state=state)
            updates, state = optimizer.update(
                grad, state, phi, value=value, grad=grad, value_fn=loss
            )
            residual = optax.tree.norm(optax.tree.get(state, "grad"))
            return optax.apply_updates(phi, updates), state, residual, t + 1

        residual = optax.tree.norm(jax.grad(loss)(phi0))
        start = (phi0, optimizer.init(phi0), residual, jnp.array(0))
        phi, _, residual, t = jax.lax.while_loop(unfinished, step, start)
        return Solution(phi, None, t, residual <= tol, residual)

    return solve


def anderson(rate: float, tol: float, max_steps: int = 1000, memory: int = 5) -> Solver:
    """Gradient descent with Anderson acceleration, on all data until converged.

    Each step combines the last `memory` ones so that their gradients, taken as linear, cancel:

        phi <- (phi - X c) - rate (g - G c),    c = argmin |g - G c|,

    with X and G the last differences of phi and of the gradient g. On a quadratic loss it is
    equivalent to GMRES as long as nothing is forgotten. Meant for losses that are nearly quadratic
    where the phase starts, as every nudged phase is; far from a minimum it can diverge.

    Args:
        rate: of gradient descent, at which that alone would converge; positive.
        tol: on the Euclidean norm of `dL/dphi`; positive.
        max_steps: at most; the solution then says `converged=False`.
        memory: differences that are kept.

    Reference: Anderson, 1965; Walker and Ni, 2011.

    Example:
        >>> loss = lambda x: jnp.sum(jnp.array([1.0, 10.0]) * (x - 1.0) ** 2)
        >>> solution = anderson(rate=0.05, tol=1e-5)(loss, jnp.zeros(2))
        >>> solution.phi.round(3).tolist(), bool(solution.steps < 10)
        ([1.0, 1.0], True)
    """
    tolerated(tol, max_steps)
    positive("memory", memory)
    if not rate > 0:
        raise ValueError(f"rate: must be positive, not {rate}.")

    def solve(loss: Any, phi0: PyTree, state: PyTree = None) -> Solution:
        flat0, unravel = ravel_pytree(phi0)
        downhill = jax.grad(lambda flat: loss(unravel(flat)))

        def unfinished(carry: tuple[jax.Array, ...]) -> jax.Array:
            _, g, _, _, t = carry
            return (jnp.linalg.norm(g) > tol) & (t < max_steps)

        def step(carry: tuple[jax.Array, ...]) -> Any:
            flat, g, xs, gs, t = carry
            c = _combination(gs, g)
            new = flat - c @ xs - rate * (g - c @ gs)
            g_new = downhill(new)
            slot = t % memory
            return new, g_new, xs.at[slot].set(new - flat), gs.at[slot].set(g_new - g), t + 1

        none = jnp.zeros((memory, flat0.size), flat0.dtype)
        start = (flat0, downhill(flat0), none, none, jnp.array(0))
        flat, g, _, _, t = jax.lax.while_loop(unfinished, step, start)
        residual = jnp.linalg.norm(g)
        return Solution(unravel(flat), None, t, residual <= tol, residual)

    return solve


def _combination(gs: jax.Array, g: jax.Array) -> jax.Array:
    """`argmin_c |g - c @ gs|`; each row at its own scale, because they shrink as it converges."""
    sizes = jnp.linalg.norm(gs, axis=1)
    rows = gs / jnp.where(sizes > 0, sizes, 1.0)[:, None]
    gram = rows @ rows.T + 100 * jnp.finfo(g.dtype).eps * jnp.eye(len(gs), dtype=g.dtype)
    return jnp.linalg.solve(gram, rows @ g) / jnp.where(sizes > 0, sizes, 1.0)


def tolerated(tol: float, max_steps: int) -> None:
    """Raise unless a run until `tol`, of at most `max_steps`, can end."""
    positive("max_steps", max_steps)
    if not tol > 0:
        raise ValueError(f"tol: must be positive, not {tol}; with 0 no run ever converges.")
