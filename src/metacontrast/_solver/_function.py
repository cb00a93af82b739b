"""Any function as a solver, and the free phase of one task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .._check import explained
from .._loss import Loss
from .._problem import Problem
from .._types import Key, PyTree, Step
from ._base import Solution, Solver, SolverLike, State, run_solver, start_of


@dataclass(frozen=True)
class Function(Solver):
    """What `as_solver` returns: a function that runs from beginning to end, in one step."""

    run: Callable[[Loss, PyTree], PyTree]
    samples: bool | None = None

    def step(self, loss: Loss, state: State, t: Step) -> State:
        """The whole run."""
        if loss.samples and self.samples is None:
            raise ValueError(
                "solver: this problem samples (Problem(sample=...)), and a plain function would "
                "see all data at each of its steps. Write its step t on loss.view(t) and wrap it "
                "as as_solver(f, samples=True); or say as_solver(f, samples=False), to learn from "
                "all data."
            )
        result = self.run(loss, state.phi)
        if isinstance(result, Solution):
            return State(result.phi, result.memory, result.residual, result.converged)
        return State(result)


def as_solver(
    solver: SolverLike,
    *,
    samples: bool | None = None,
    holomorphic: bool = False,
) -> Solver:
    """A function `(loss, phi) -> phi`, or `-> Solution`, as a `Solver`; a solver as it is.

    `loss` is a `Loss`: call it for the loss on all data, call `loss.view(t)` for that on the view
    which step t of every phase draws.

    Args:
        solver: the function.
        samples: whether it takes its views by `loss.view`. A problem that samples refuses a
            function that does not say; False lets it learn from all data.
        holomorphic: whether it can learn in complex numbers.

    Example:
        >>> import jax, jax.numpy as jnp, metacontrast as mc
        >>> half_way = mc.as_solver(lambda loss, phi: phi - jax.grad(loss)(phi) / 4)
        >>> float(half_way(lambda x: (x - 1.0) ** 2, jnp.array(0.0)).phi)
        0.5
    """
    if isinstance(solver, Solver):
        return solver
    # It is handed the whole loss, of which it takes the views itself.
    return Function(solver, samples, steps=1, holomorphic=holomorphic, sampled=False)


def solve_inner(
    problem: Problem, solver: SolverLike, theta: PyTree, z: PyTree, key: Key | None = None
) -> Solution:
    """Learn one task: the free phase, `phi_0 = argmin_phi L_in(phi, theta, z)`.

    Args:
        problem: what is learned.
        solver: how; a `Solver`, or any function that `as_solver` takes.
        theta: the meta-parameters.
        z: the task.
        key: for problems that sample.

    Example:
        >>> import jax.numpy as jnp, optax, metacontrast as mc
        >>> problem = mc.Problem(
        ...     init=lambda theta, task: theta,
        ...     inner=lambda phi, theta, task: (phi - task) ** 2,
        ...     outer=lambda phi, theta, task: phi**2,
        ... )
        >>> solver = mc.descend(optax.sgd(0.25), 50)
        >>> solution = mc.solve_inner(problem, solver, jnp.array(0.0), jnp.array(2.0))
        >>> round(float(solution.phi), 4)
        2.0
    """
    loss = Loss(problem, theta, z, key)
    with explained(loss):
        return run_solver(as_solver(solver), loss, start_of(loss))
