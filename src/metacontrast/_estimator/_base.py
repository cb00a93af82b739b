"""What an estimator is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple, TypeAlias

from .._flags import REMEDIES
from .._loss import Loss
from .._solver._base import Solution, Solver, Start, run_solver, start_of
from .._types import Aux, PyTree, Scalar
from .._warn import warn


class Phases(NamedTuple):
    """Where the phases of a meta-gradient ended, so that the next one can start there.

    `nudged` is None where nudged phases are to start at the new `phi_0`.
    """

    free: Start
    nudged: tuple[Start, ...] | None = None


Starts: TypeAlias = Phases | None


class MetaGradient(NamedTuple):
    """What an estimator gives for one task.

    Attributes:
        value: the meta-loss, `L_out(phi_0)`.
        by_theta: its gradient by theta, of theta's structure.
        by_z: its gradient by z, `float0` for leaves that are not floating; None where the
            estimator gives none.
        aux: diagnostics by name, numbers or lists of them.
        phases: where its phases ended; None where it cannot be warm-started.
    """

    value: Scalar
    by_theta: PyTree
    by_z: PyTree = None
    aux: Aux = {}  # noqa: RUF012 - never changed
    phases: Phases | None = None


class Estimator(ABC):
    """How a meta-gradient is obtained. Subclasses are frozen dataclasses with this one method.

    `meta_loss` and `value_and_grad` check what goes in and what comes out.

    Attributes:
        by_z: whether it gives the gradient by z.
        warm_start: whether it can go on from the phases of the last meta-gradient.
        through: by which functions of the problem it finds theta, of "init", "inner" and "outer".
            A leaf of theta on which none of them depends is refused. Default: it sees all that the
            learner does.
        by_slope: whether it takes the slope of the outer loss; one that has none is then refused.
    """

    by_z: ClassVar[bool] = False
    warm_start: ClassVar[bool] = False
    through: ClassVar[tuple[str, ...] | None] = None
    by_slope: ClassVar[bool] = True

    @abstractmethod
    def value_and_grad(self, loss: Loss, solver: Solver, starts: Starts = None) -> MetaGradient:
        """The meta-gradient of one task.

        Args:
            loss: of the free phase; it holds the problem, theta, z and the key.
            solver: how the task is learned.
            starts: where its phases start, if `warm_start`. Default: at `problem.init`.
        """

    def check_aux(self, aux: Aux) -> None:
        """Warn or raise, where the numbers of a meta-gradient's aux are known and tell of trouble.

        Called by the frame, outside of `jit` and other transformations. By default each flag that
        is up is a `RuntimeWarning`, with what to do about it.
        """
        if raised := aux["flags"].raised():
            said = "; ".join(f"{name}: {REMEDIES[name]}" for name in raised)
            text = f"the meta-gradient may be wrong. {said}."
            warn(text)


def first_start(loss: Loss, starts: Starts = None) -> Start:
    """Where the free phase starts."""
    return start_of(loss) if starts is None else starts.free


def free_phase(loss: Loss, solver: Solver, starts: Starts = None) -> Solution:
    """The free phase of a task."""
    return run_solver(solver, loss, first_start(loss, starts))


def start_from(solution: Solution) -> Start:
    """The start that goes on where a phase ended."""
    return Start(solution.phi, solution.memory, solution.model)
