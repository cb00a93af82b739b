"""How it is learned: steps of a torch optimiser. A solver is any `solver(loss, params)`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

import torch

from .._solver._base import check_positive_int

Solver: TypeAlias = Callable[[Callable[[], torch.Tensor], list[torch.nn.Parameter]], object]


def descend(
    optimizer: Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer],
    steps: int,
    scheduler: Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]
    | None = None,
) -> Solver:
    """A fixed number of steps of any `torch.optim` optimiser, made afresh for each phase.

    A solver of your own is a function `solver(loss, params)`, which calls `loss()` for the
    augmented loss, a scalar tensor to call `.backward()` on, and changes `params` in place. Its
    memory should not grow with its steps, as that of this one does not: each step frees its graph.

    Args:
        optimizer: `params -> optimiser`, for example `partial(torch.optim.Adam, lr=1e-2)`.
        steps: how many, at least 1.
        scheduler: `optimiser -> scheduler`, whose `step()` follows each of the optimiser's.

    Example:
        >>> import torch
        >>> phi = torch.nn.Parameter(torch.tensor(0.0))
        >>> solver = descend(lambda params: torch.optim.SGD(params, lr=0.25), steps=30)
        >>> solver(lambda: (phi - 2) ** 2, [phi])
        >>> round(phi.item(), 4)
        2.0
    """
    check_positive_int("steps", steps)

    def solve(loss: Callable[[], torch.Tensor], params: list[torch.nn.Parameter]) -> None:
        descent = optimizer(params)
        schedule = scheduler(descent) if scheduler else None

        def closure() -> torch.Tensor:
            descent.zero_grad()
            value = loss()
            value.backward()
            return value

        for _ in range(steps):
            descent.step(closure)
            if schedule is not None:
                schedule.step()

    return solve
