"""One training of the model from its start, and what the third split says of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import jax

from .._configuration import Configuration
from .._problem import Problem
from .._solver._base import Solver
from .._solver._function import solve_inner
from .._types import Key, PyTree, Scalar
from ._losses import Task


class End(NamedTuple):
    """Where training ends: weights, the model's state, and the loss on the third split."""

    phi: PyTree
    state: PyTree
    stop_loss: Scalar


class Training:
    """`theta -> End`, with the same batches and noise at every call; it compiles once.

    Args:
        task: what is learned.
        solver: how.
        key: of the batches and the noise.
    """

    def __init__(self, task: Task, solver: Solver, key: Key) -> None:
        self.task, self.solver = task, solver
        self.problem: Problem = task.problem()
        drawing, self._learning = jax.random.split(key)
        self._z = task.draw(drawing)

    def at(self, theta: PyTree) -> Configuration:
        """For `diagnose`."""
        return Configuration(self.problem, self.solver, theta, self._z, self._learning)

    def __call__(self, theta: PyTree) -> End:
        """Train with this theta."""
        return self._run(theta)

    @cached_property
    def _run(self) -> Callable[[PyTree], End]:
        @jax.jit
        def run(theta: PyTree) -> End:
            end = solve_inner(self.problem, self.solver, theta, self._z, self._learning)
            loss = self.task.stop_loss(end.phi, theta, self._z, end.model)
            return End(end.phi, end.model, loss)

        return run
