"""How it is learned: steps of a torch optimiser. A solver is any `solver(loss, params)`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, TypeAlias

import torch
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from .._must import Count, advice
from .._solver._base import Solver as SolverInJax


def _check_solver(name: str, solver: object) -> None:
    """Raise for what is called like a solver, and is one of JAX or an optimiser."""
    takes = "descend(partial(torch.optim.SGD, lr=0.1), steps=100) of metacontrast.torch"
    made = solver.func if isinstance(solver, partial) else solver
    if isinstance(solver, SolverInJax):
        raise TypeError(f"{name}: is a solver of learners in JAX; take {takes}.")
    if isinstance(made, type) and issubclass(made, torch.optim.Optimizer):
        raise TypeError(f"{name}: is the optimiser of a solver; take {takes}.")


Solver: TypeAlias = Annotated[
    Callable[[Callable[[], torch.Tensor], list[torch.nn.Parameter]], object], _check_solver
]
EACH = "since each phase needs one of its own, try partial(torch.optim."
MakeOptimizer: TypeAlias = Annotated[
    Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer], advice(f"{EACH}SGD, lr=0.1)")
]
MakeScheduler: TypeAlias = Annotated[
    Callable[[torch.optim.Optimizer], LRScheduler],
    advice(f"{EACH}lr_scheduler.StepLR, step_size=10)"),
]


def descend(
    optimizer: MakeOptimizer, steps: Count, scheduler: MakeScheduler | None = None
) -> Solver:
    """A fixed number of steps of any `torch.optim` optimiser, made afresh for each phase.

    A solver of your own is a function `solver(loss, params)`, which calls `loss()` for the
    augmented loss, a scalar tensor to call `.backward()` on, and changes `params` in place. Its
    memory should not grow with its steps, as that of this one does not: each step frees its graph.

    Args:
        optimizer: `params -> optimiser`, for example `partial(torch.optim.Adam, lr=1e-2)`.
        steps: how many, at least 1.
        scheduler: `optimiser -> scheduler`, whose `step()` follows each of the optimiser's. That of
            `ReduceLROnPlateau` is handed the loss of the phase, nudge and all, so that phases may
            slow down at different steps: let them converge.

    Raises:
        TypeError: an optimiser or a scheduler in place of the function that makes it.
        ValueError: no steps.

    Example:
        >>> import torch
        >>> phi = torch.nn.Parameter(torch.tensor(0.0))
        >>> solver = descend(lambda params: torch.optim.SGD(params, lr=0.25), steps=30)
        >>> solver(lambda: (phi - 2) ** 2, [phi])
        >>> round(phi.item(), 4)
        2.0
    """
    return Descend(optimizer, steps, scheduler)


@dataclass(frozen=True)
class Descend:
    """What `descend` makes. It fills the `.grad` of the fast parameters and of nothing else."""

    optimizer: MakeOptimizer
    steps: int
    scheduler: MakeScheduler | None

    def __call__(self, loss: Callable[[], torch.Tensor], params: list[torch.nn.Parameter]) -> None:
        """All steps."""
        descent = self.optimizer(params)
        if not hasattr(descent, "step"):
            raise TypeError(
                f"optimizer: must return an optimiser of the parameters it is handed, not "
                f"{type(descent).__name__}; try partial(torch.optim.SGD, lr=0.1)."
            )
        schedule = self.scheduler(descent) if self.scheduler else None

        def closure() -> torch.Tensor:
            value = loss()
            grads = torch.autograd.grad(value, params, allow_unused=True)
            for p, grad in zip(params, grads, strict=True):
                p.grad = grad
            return value

        for _ in range(self.steps):
            value = descent.step(closure)
            if isinstance(schedule, ReduceLROnPlateau):
                schedule.step(value.item())
            elif schedule is not None:
                schedule.step()
