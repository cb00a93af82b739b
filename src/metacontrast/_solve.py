"""How it is learned: first-order solvers. A solver is any callable `solve(loss, phi0)`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ._holomorphic import gradient
from ._problem import Loss, Problem, PyTree

Solver = Callable[..., Any]


class Solution(NamedTuple):
    """What a solver that says more than `phi` returns.

    `state` is what the solver needs to carry on where it stopped (an optimiser's moments);
    `steps` the steps taken; `converged` whether its own tolerance was met, None if it has none;
    `residual` the norm of the gradient where it stopped, if it knows it.
    """

    phi: PyTree
    state: PyTree = None
    steps: Any = None
    converged: Any = None
    residual: Any = None


def positive(name: str, steps: int) -> None:
    """Raise unless `steps` is a number of steps that can be taken."""
    if not (isinstance(steps, Integral) and steps >= 1):
        raise ValueError(f"{name}: must be a whole number of at least 1, not {steps!r}.")


def settle(
    solve: Solver, loss: Callable[[PyTree], jax.Array], phi0: PyTree, state: PyTree = None
) -> Solution:
    """Run any solver: a bare `phi` becomes a `Solution`; `state`, if there is one, is handed on."""
    found = solve(loss, phi0) if state is None else solve(loss, phi0, state)
    return found if isinstance(found, Solution) else Solution(found)


def learn(
    problem: Problem, solve: Solver, theta: PyTree, task: PyTree, key: jax.Array | None = None
) -> Solution:
    """Learn one task: the free phase, `phi_0 = argmin_phi L_in(phi, theta, task)`.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> problem = Problem(
        ...     init=lambda theta, task: theta,
        ...     inner=lambda phi, theta, task: (phi - task) ** 2,
        ...     outer=lambda phi, theta, task: phi**2,
        ... )
        >>> solution = learn(problem, descend(optax.sgd(0.25), 50), jnp.array(0.0), jnp.array(2.0))
        >>> round(float(solution.phi), 4)
        2.0
    """
    return settle(solve, problem.loss(theta, task, key=key), problem.init(theta, task))


def descend(optimizer: optax.GradientTransformation, steps: int) -> Solver:
    """A fixed number of steps of any optax optimiser.

    Full-batch, or on one random view a step where the problem samples. Differentiable (a `scan`),
    so it can be unrolled. Its state can be carried from the free into the nudged phase.

    Args:
        optimizer: for example `optax.adam(1e-2)`.
        steps: how many, at least 1.
    """
    positive("steps", steps)
    return Descent(optimizer, steps)


@dataclass(frozen=True)
class Descent:
    """What `descend` returns: a solver that can be run in parts, and in complex numbers.

    Solvers of other make can say the same of themselves: `steps` and `part` are what
    `Unrolled(truncate=..., remat=...)` asks for, `holomorphic = True` the holomorphic scheme.
    """

    optimizer: Any
    steps: int
    first: Any = 0
    gradient: Callable[..., Any] = gradient
    holomorphic: bool = True

    def part(self, first: Any, steps: int) -> Descent:
        """The solver of the `steps` steps that come after the first `first` ones."""
        return replace(self, first=self.first + first, steps=steps)

    def __call__(self, loss: Any, phi0: PyTree, state: PyTree = None) -> Solution:
        """Run all steps from `phi0`; `state` is the optimiser's, if it goes on."""
        downhill = self.gradient(loss.at if isinstance(loss, Loss) else lambda phi, t: loss(phi))

        def step(carry: tuple[PyTree, PyTree], t: jax.Array) -> tuple[tuple[PyTree, PyTree], None]:
            phi, state = carry
            updates, state = self.optimizer.update(downhill(phi, t), state, phi)
            return (optax.apply_updates(phi, updates), state), None

        start = (phi0, self.optimizer.init(phi0) if state is None else state)
        (phi, state), _ = jax.lax.scan(step, start, self.first + jnp.arange(self.steps))
        return Solution(phi, state, self.steps)


def until_converged(
    optimizer: optax.GradientTransformation, tol: float, max_steps: int = 10_000
) -> Solver:
    """Steps of any optax optimiser, on all data, until the gradient's norm is at most `tol`.

    A `while_loop`: it costs what the task needs, and cannot be unrolled. Under `vmap` all tasks
    run until the slowest one has converged, and those that have are left where they are.

    Args:
        optimizer: for example `optax.adam(1e-2)`.
        tol: on the Euclidean norm of `dL/dphi`, over all leaves; positive.
        max_steps: stop here in any case; the solution then says `converged=False`.
    """
    positive("max_steps", max_steps)
    if not tol > 0:
        raise ValueError(f"tol: must be positive, not {tol}; with 0 no run ever converges.")

    def solve(loss: Any, phi0: PyTree, state: PyTree = None) -> Solution:
        downhill = gradient(loss)

        def unfinished(carry: tuple[PyTree, PyTree, PyTree, jax.Array]) -> jax.Array:
            _, _, g, t = carry
            # "not (norm <= tol)" would go on for ever on a NaN; max_steps bounds it either way.
            return (optax.tree.norm(g) > tol) & (t < max_steps)

        def step(carry: tuple[PyTree, PyTree, PyTree, jax.Array]) -> Any:
            phi, state, g, t = carry
            updates, state = optimizer.update(g, state, phi)
            phi = optax.apply_updates(phi, updates)
            return phi, state, downhill(phi), t + 1

        start = (
            phi0,
            optimizer.init(phi0) if state is None else state,
            downhill(phi0),
            jnp.array(0),
        )
        phi, state, g, t = jax.lax.while_loop(unfinished, step, start)
        residual = optax.tree.norm(g)
        return Solution(phi, state, t, residual <= tol, residual)

    solve.holomorphic = True  # type: ignore[attr-defined]
    return solve
