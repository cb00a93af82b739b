"""The phases of one task: each with the same random numbers, none leaving a trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ._problem import Loss, Problem
from ._solve import Solver
from ._state import Weights, draw_from, frozen, load, random_state, saved


@dataclass(frozen=True)
class Phases:
    """One task of a problem: where its learning starts, and with which random numbers."""

    problem: Problem
    task: Any
    slow: dict[str, Any]
    fast: list[Any]
    start: Weights
    random: dict[Any, Any]

    def put(self, phi: Weights) -> None:
        """Phi into the module, and the random numbers of step 1 to be drawn next."""
        load(self.problem.module, self.fast, phi)
        draw_from(self.random)

    def loss(self, beta: float) -> Any:
        """`L_in + beta L_out` of the module as it is now."""
        inner = self._scalar("inner")
        if not beta:
            return inner
        # L_out takes its random numbers from a branch: those of L_in at the next step must be the
        # same in all phases, also in the free one, which does not look at L_out.
        branch = random_state(self.problem.module)
        outer = self._scalar("outer")
        draw_from(branch)
        return inner + beta * outer

    def run(self, solve: Solver, beta: float, start: Weights) -> Weights:
        """Where a phase that starts at `start` ends."""
        self.put(start)
        with torch.enable_grad(), frozen(self.slow.values()):
            solve(lambda: self.loss(beta), self.fast)
        return saved(self.problem.module, self.fast)

    def slope(self, phi: Weights, beta: float) -> dict[str, Any]:
        """`dL/dtheta` at fixed phi."""
        self.put(phi)
        with torch.enable_grad(), frozen(self.fast):
            loss = self.loss(beta)
            if not loss.requires_grad:  # no theta in L_in, where beta is 0
                return {name: torch.zeros_like(p) for name, p in self.slow.items()}
            grads = torch.autograd.grad(loss, list(self.slow.values()), materialize_grads=True)
        return dict(zip(self.slow, grads, strict=True))

    def measure(self, name: str, phi: Weights) -> float:
        """The number `inner` or `outer` at phi."""
        self.put(phi)
        with torch.no_grad():
            return float(self._scalar(name))

    def check(self) -> None:
        """Raise where no meta-parameter is in a loss."""
        self.put(self.start)
        with torch.enable_grad(), frozen(self.fast):
            if not self.loss(1.0).requires_grad:
                raise ValueError(
                    f"meta: neither loss depends on {', '.join(self.slow)}, so that the rule finds "
                    "no gradient; add to the inner loss what ties them to the fast parameters (a "
                    "Synapse's pull())."
                )

    def _scalar(self, name: str) -> Any:
        loss: Loss = getattr(self.problem, name)
        value = loss(self.problem.module, self.task)
        if not torch.is_tensor(value) or value.numel() != 1 or not value.is_floating_point():
            said = f"{value.dtype}{list(value.shape)}" if torch.is_tensor(value) else repr(value)
            raise ValueError(
                f"{name}: must return a tensor of one floating number, not {said}; take the mean "
                "or the sum over examples."
            )
        return value


@contextmanager
def begun(problem: Problem, task: Any) -> Iterator[Phases]:
    """A task begins, after `init`; in the end fast weights and buffers are what they were."""
    slow, fast = problem.slow, list(problem.fast.values())
    before = saved(problem.module, fast)
    try:
        if problem.init is not None:
            with torch.no_grad():
                problem.init(problem.module, task)
        start, random = saved(problem.module, fast), random_state(problem.module)
        phases = Phases(problem, task, slow, fast, start, random)
        phases.check()
        yield phases
    finally:
        load(problem.module, fast, before)
        for p in fast:
            p.grad = None
