"""What a solver is, and the driver that runs any of them, whole or in parts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .._loss import Loss, as_loss
from .._must import Count, Tolerance
from .._problem import InverseCurvature
from .._tree import are_alike, kinds
from .._types import PyTree, Scalar, Step


class State(NamedTuple):
    """Where a solver is: `phi`, and what it remembers besides (an optimiser's moments).

    `residual` is the norm of the gradient at phi, and `converged` whether that is small enough, for
    solvers that know it. `model` is the state of the model (batch norm's statistics), where the
    problem has one: the driver sees to it, no solver need.
    """

    phi: PyTree
    memory: PyTree = None
    residual: Float[Array, ""] | None = None
    converged: Bool[Array, ""] | None = None
    model: PyTree = None


class Solution(NamedTuple):
    """What a run of a solver ended with.

    `memory` is what the solver needs to go on from there (see `Start`); `steps` the steps taken;
    `converged` whether its own tolerance was met, None if it has none; `residual` the norm of the
    gradient where it stopped, None if it does not know it; `model` the state of the model;
    `curvature` the smallest that it met; `inverse` what it has made of all curvature that it met,
    as an approximation of the inverse at phi. These two are None if it keeps no account of them.
    """

    phi: PyTree
    memory: PyTree = None
    steps: Step = 1
    converged: Bool[Array, ""] | None = None
    residual: Float[Array, ""] | None = None
    model: PyTree = None
    curvature: Float[Array, ""] | None = None
    inverse: InverseCurvature | None = None


class Start(NamedTuple):
    """Where a phase begins: at `phi`, with the solver's `memory`, or without any.

    `model` is the state of the model, where the problem has one.
    """

    phi: PyTree
    memory: PyTree = None
    model: PyTree = None


def start_of(loss: Loss) -> Start:
    """Where the learning of a task begins."""
    problem = loss.problem
    model = None if problem.state is None else problem.state(loss.theta, loss.z)
    return Start(problem.init(loss.theta, loss.z), model=model)


class Tangent(NamedTuple):
    """`u = dphi/dbeta`, how a minimiser begins to move with a nudge, and how it was solved for.

    `converged`, `curvature` and `memory` as of `Solution`; `steps` gradients that it took.
    """

    u: PyTree
    steps: Step
    converged: Bool[Array, ""] | None = None
    curvature: Float[Array, ""] | None = None
    memory: PyTree = None


@dataclass(frozen=True, kw_only=True)
class Solver(ABC):
    """A learner: how it begins, one step, and when it stops. Subclasses are frozen dataclasses.

    A solver owes `step`, and `init` if it remembers more than phi; `run_solver` does the rest, and
    can run a part of the steps, which is what truncation, rematerialisation and warm starts need. A
    function of your own that runs from beginning to end is made one by `as_solver`.

    Args:
        steps: how many; at most so many, if there is a `tol`.
        tol: on the Euclidean norm of `dL/dphi`, at which it stops. None: it takes all its steps.
        holomorphic: whether it can learn in complex numbers.
        carries: whether the memory that it ends a phase with is of use to the next one.
        sampled: whether `step` is handed the view of that step, where the problem samples. None:
            where there is no `tol`, since no run converges on views that change.

    Example: gradient descent that takes the sign of the gradient.
        >>> from dataclasses import dataclass
        >>> import jax, jax.numpy as jnp, metacontrast as mc
        >>> @dataclass(frozen=True)
        ... class SignDescent(mc.Solver):
        ...     rate: float
        ...     def step(self, loss, state, t):
        ...         slope = jax.grad(loss)(state.phi)
        ...         move = lambda p, g: p - self.rate * jnp.sign(g)
        ...         return state._replace(phi=jax.tree.map(move, state.phi, slope))
        >>> float(SignDescent(0.1, steps=20)(lambda x: (x - 1.0) ** 2, jnp.array(0.0)).phi.round(1))
        1.0
    """

    steps: Count
    tol: Tolerance | None = None
    holomorphic: bool = False
    carries: bool = False
    sampled: bool | None = None

    def init(self, loss: Loss, phi: PyTree, memory: PyTree = None) -> State:
        """The state before the first step, with the memory of an earlier run if there is one."""
        return State(phi)

    @abstractmethod
    def step(self, loss: Loss, state: State, t: Step) -> State:
        """The state after step `t`, which counts from 0 over the whole phase."""

    def tangent(
        self,
        loss: Loss,
        phi_0: PyTree,
        memory: PyTree = None,
        inverse: InverseCurvature | None = None,
    ) -> Tangent | None:
        """`dphi/dbeta` of the nudge of this loss, of a solver that solves for it once for all beta.

        None, the default, of one that learns each nudged phase by itself.

        Args:
            loss: nudged; its beta is without effect.
            phi_0: where the free phase ended.
            memory: that of the last tangent of this solver.
            inverse: of the curvature at `phi_0`, as the free phase's solver approximates it.
        """
        return None

    def inverse_curvature(self, state: State) -> InverseCurvature | None:
        """What is remembered at the end of a run of the inverse curvature. Default: nothing."""
        return None

    def __call__(self, loss: Loss | Callable[[PyTree], Scalar], phi: PyTree) -> Solution:
        """Run all steps from `phi` on a loss of phi: `run_solver(self, loss, Start(phi))`."""
        return run_solver(self, as_loss(loss), Start(phi))


# What `as_solver` makes a solver of.
SolverLike: TypeAlias = Solver | Callable[[Loss, PyTree], PyTree]


def run_solver(solver: Solver, loss: Loss, start: Start) -> Solution:
    """One phase: all steps of a solver, or as many as its tolerance needs."""
    state = begin(solver, loss, start)
    state, taken = advance(solver, loss, state, 0, solver.steps)
    converged = state.converged
    if solver.tol is not None and state.residual is not None:
        converged = state.residual <= solver.tol
    memory = state.memory if solver.carries else None
    inverse = solver.inverse_curvature(state)
    return Solution(
        state.phi, memory, taken, converged, state.residual, state.model, inverse=inverse
    )


def begin(solver: Solver, loss: Loss, start: Start) -> State:
    """The state before the first step."""
    state = solver.init(loss.with_state(start.model), start.phi, start.memory)
    _check_alike(solver, "phi", start.phi, state.phi)
    return state._replace(model=start.model)


def advance(
    solver: Solver, loss: Loss, state: State, first: Step, steps: int
) -> tuple[State, Step]:
    """The state after `steps` further steps, of which `first` is the number of the first one."""
    sampled = solver.tol is None if solver.sampled is None else solver.sampled
    loops = steps > 1 or solver.tol is not None

    def step(state: State, t: Step) -> State:
        at = (loss.view(t) if sampled else loss).with_state(state.model)
        new = solver.step(at, state, t)
        _check_alike(solver, "phi", state.phi, new.phi)
        if loss.problem.state is not None:
            # What the gradient's forward pass has computed already, to a compiler.
            new = new._replace(model=at.next_state(state.phi))
        if loops:
            _check_alike(solver, "a State", state, new)
        return new

    if solver.tol is not None:
        if state.residual is None:
            raise TypeError(
                f"solver: {solver!r} has a tol, but its init gives no residual to compare with it; "
                "return State(phi, memory, residual) from init and from step, or leave tol out."
            )
        return _until(solver.tol, step, state, first, steps)
    if steps == 1:  # one step may be a whole run of code that cannot be traced
        return step(state, first), 1
    if steps:
        state, _ = jax.lax.scan(
            lambda state, t: (step(state, t), None), state, first + jnp.arange(steps)
        )
    return state, steps


def _until(
    tol: float,
    step: Callable[[State, Int[Array, ""]], State],
    state: State,
    first: Step,
    steps: int,
) -> tuple[State, Int[Array, ""]]:
    """Steps until the residual is at most `tol`, `steps` of them at most.

    Under `vmap` all tasks run until the slowest one has converged, and those that have are left
    where they are.
    """

    def unfinished(carry: tuple[State, Int[Array, ""]]) -> Bool[Array, ""]:
        # "not (residual <= tol)" would go on on a NaN until the steps are used up.
        residual = jnp.asarray(carry[0].residual)
        return (residual > tol) & (carry[1] < steps)

    def one(carry: tuple[State, Int[Array, ""]]) -> tuple[State, Int[Array, ""]]:
        return step(carry[0], first + carry[1]), carry[1] + 1

    return jax.lax.while_loop(unfinished, one, (state, jnp.array(0)))


def _check_alike(solver: Solver, what: str, first: PyTree, last: PyTree) -> None:
    """Raise if a solver returns something else than what it was given, changed."""
    if not are_alike(first, last):
        raise ValueError(
            f"solver: {solver!r} returned {what} as {kinds(last)}, but was given {kinds(first)}; "
            "return the same structure, shapes and types."
        )
