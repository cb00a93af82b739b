"""How it is learned: steps of a torch optimiser. A solver is any callable `solve(loss, params)`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from .._solve import positive

Solver = Callable[[Callable[[], Any], list[Any]], Any]


def descend(
    optimizer: Callable[[Iterable[Any]], Any],
    steps: int,
    scheduler: Callable[[Any], Any] | None = None,
) -> Solver:
    """A fixed number of steps of any `torch.optim` optimiser, made afresh for each phase.

    A solver of your own is a function `solve(loss, params)`, which calls `loss()` for the augmented
    loss, a scalar tensor to call `.backward()` on, and changes `params` in place. Its memory should
    not grow with its steps, as that of this one does not: each step frees its graph.

    Args:
        optimizer: `params -> optimiser`, for example `partial(torch.optim.Adam, lr=1e-2)`.
        steps: how many, at least 1.
        scheduler: `optimiser -> scheduler`, whose `step()` follows each of the optimiser's.

    Example:
        >>> import torch
        >>> phi = torch.nn.Parameter(torch.tensor(0.0))
        >>> solve = descend(lambda params: torch.optim.SGD(params, lr=0.25), steps=30)
        >>> solve(lambda: (phi - 2) ** 2, [phi])
        >>> round(phi.item(), 4)
        2.0
    """
    positive("steps", steps)

    def solve(loss: Callable[[], Any], params: list[Any]) -> None:
        descent = optimizer(params)
        schedule = scheduler(descent) if scheduler else None

        def closure() -> Any:
            descent.zero_grad()
            value = loss()
            value.backward()
            return value

        for _ in range(steps):
            descent.step(closure)
            if schedule is not None:
                schedule.step()

    return solve
