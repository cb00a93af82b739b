"""The phases of one task: each with the same random numbers, none leaving a trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from .._types import PyTree
from ._problem import LossFunction, Problem
from ._solver import Solver
from ._state import (
    RandomState,
    Weights,
    freeze,
    load,
    random_state,
    save,
    set_random_state,
)


@dataclass(frozen=True)
class Phases:
    """One task of a problem: where its learning starts, and with which random numbers."""

    problem: Problem
    task: PyTree
    slow: dict[str, nn.Parameter]
    fast: list[nn.Parameter]
    start: Weights
    random: RandomState

    def put(self, phi: Weights) -> None:
        """Phi into the module, and the random numbers of step 1 to be drawn next."""
        load(self.problem.module, self.fast, phi)
        set_random_state(self.random)

    def loss(self, beta: float) -> torch.Tensor:
        """`L_in + beta L_out` of the module as it is now."""
        inner = self._scalar("inner", self.problem.inner)
        if not beta:
            return inner
        # L_out takes its random numbers from a branch: those of L_in at the next step must be the
        # same in all phases, also in the free one, which does not look at L_out.
        branch = random_state(self.problem.module)
        outer = self._scalar("outer", self.problem.outer)
        set_random_state(branch)
        return inner + beta * outer

    def run(self, solver: Solver, beta: float, start: Weights) -> Weights:
        """Where a phase that starts at `start` ends."""
        self.put(start)
        with torch.enable_grad(), freeze(self.slow.values()):
            solver(lambda: self.loss(beta), self.fast)
        return save(self.problem.module, self.fast)

    def slope(self, phi: Weights, beta: float) -> dict[str, torch.Tensor]:
        """`dL/dtheta` at fixed phi."""
        self.put(phi)
        with torch.enable_grad(), freeze(self.fast):
            loss = self.loss(beta)
            if not loss.requires_grad:  # no theta in L_in, where beta is 0
                return {name: torch.zeros_like(p) for name, p in self.slow.items()}
            grads = torch.autograd.grad(loss, list(self.slow.values()), materialize_grads=True)
        return dict(zip(self.slow, grads, strict=True))

    def inner(self, phi: Weights) -> float:
        """`L_in` at phi."""
        return self._measure("inner", self.problem.inner, phi)

    def outer(self, phi: Weights) -> float:
        """`L_out` at phi."""
        return self._measure("outer", self.problem.outer, phi)

    def check(self) -> None:
        """Raise where no meta-parameter is in a loss."""
        self.put(self.start)
        with torch.enable_grad(), freeze(self.fast):
            if not self.loss(1.0).requires_grad:
                raise ValueError(
                    f"meta: neither loss depends on {', '.join(self.slow)}, so that there is "
                    "no gradient; add to the inner loss what ties them to the fast parameters (a "
                    "Synapse's pull())."
                )

    def _measure(self, name: str, loss: LossFunction, phi: Weights) -> float:
        self.put(phi)
        with torch.no_grad():
            return float(self._scalar(name, loss))

    def _scalar(self, name: str, loss: LossFunction) -> torch.Tensor:
        value = loss(self.problem.module, self.task)
        if not torch.is_tensor(value) or value.numel() != 1 or not value.is_floating_point():
            kind = f"{value.dtype}{list(value.shape)}" if torch.is_tensor(value) else repr(value)
            raise ValueError(
                f"{name}: must return a tensor of one floating number, not {kind}; take the mean "
                "or the sum over examples."
            )
        return value


@contextmanager
def phases_of(problem: Problem, task: PyTree) -> Iterator[Phases]:
    """A task begins, after `init`; in the end fast weights and buffers are what they were."""
    slow, fast = problem.slow, list(problem.fast.values())
    before = save(problem.module, fast)
    try:
        if problem.init is not None:
            with torch.no_grad():
                problem.init(problem.module, task)
        start, random = save(problem.module, fast), random_state(problem.module)
        phases = Phases(problem, task, slow, fast, start, random)
        phases.check()
        yield phases
    finally:
        load(problem.module, fast, before)
        for p in fast:
            p.grad = None
