"""The phases of one task: each with the same random numbers, none leaving a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from .._must import shown
from .._types import PyTree
from ..external._unseen import refuse_unseen
from ._batches import Recording, recording
from ._outside import outside_kept
from ._problem import LossFunction, Problem
from ._solver import Descend, Solver
from ._state import (
    HOST,
    RandomState,
    Weights,
    drew,
    freeze,
    gpus,
    grads_kept,
    load,
    modes_kept,
    random_state,
    restore,
    save,
    set_random_state,
    widened,
)

INSTEAD = (
    "Put it into the inner loss, itself and not its .data, .detach() or .item(): the penalty that "
    "it weighs, or a pull to it, ((phi - theta) ** 2).sum(); where only the start or the solver "
    "sees it, metacontrast's Unrolled (in JAX) and Evolution can learn it."
)
DRAWS = 8  # of random numbers and batches, where one does not tell enough


@dataclass(frozen=True)
class Phases:
    """One task of a problem: where its learning starts, with which random numbers and batches."""

    problem: Problem
    task: PyTree
    slow: dict[str, nn.Parameter]
    fast: list[nn.Parameter]
    parts: list[nn.Module]
    devices: list[torch.device]
    start: Weights
    random: RandomState
    batches: Recording

    def put(self, phi: Weights) -> None:
        """Phi into the module, and the random numbers and batches of step 1 to be drawn next."""
        load(self.problem.module, self.fast, phi)
        set_random_state(self.random)
        self.batches.rewind()

    def random_state(self) -> RandomState:
        """Where all generators are now."""
        return random_state(self.devices)

    def loss(self, beta: float, drawn: Iterable[str] = HOST) -> torch.Tensor:
        """`L_in + beta L_out` of the module as it is now, where L_out draws from `drawn`."""
        inner = self._scalar("inner")
        if not beta:
            return inner
        # L_out takes its random numbers from a branch: those of L_in at the next step must be the
        # same in all phases, also in the free one, which does not look at L_out.
        branch, positions = random_state(self.devices, drawn), self.batches.positions()
        outer = self._scalar("outer")
        set_random_state(branch)
        self.batches.rewind(positions)
        return inner + beta * outer

    def run(self, solver: Solver, beta: float, start: Weights) -> Weights:
        """Where a phase that starts at `start` ends."""
        # To ask NumPy where it is costs as much as a layer: not at each step for nothing.
        drawn = ["torch", *self._drawn_by_outer(start)] if beta else []
        loss = lambda: self.loss(beta, drawn)
        self.put(start)
        with torch.enable_grad(), freeze(self.slow.values()):
            if isinstance(solver, Descend):
                solver(loss, self.fast)
            else:
                with outside_kept(loss, self.fast) as watched:
                    solver(watched, self.fast)
        return save(self.problem.module, self.fast)

    def slope(self, phi: Weights, beta: float) -> dict[str, torch.Tensor]:
        """`dL/dtheta` at fixed phi."""
        with freeze(self.fast):
            try:
                with widened(self.slow.values()):
                    return self._slope(phi, beta)
            except RuntimeError:  # it asks for tensors of one type; any other fault is there again
                return self._slope(phi, beta)

    def _slope(self, phi: Weights, beta: float) -> dict[str, torch.Tensor]:
        self.put(phi)
        return dict(zip(self.slow, self._grads(beta, self.slow.values()), strict=True))

    def phi_slope(self, phi: Weights, beta: float) -> list[torch.Tensor]:
        """`dL/dphi` at fixed theta, the mean over some draws where the inner loss is random.

        A learner of mini-batches comes to rest with respect to many of them, not to one.
        """
        with freeze(self.slow.values()):
            self.put(phi)
            total = self._grads(beta, self.fast)
            draws = DRAWS if self.has_drawn() else 1
            for _ in range(draws - 1):
                load(self.problem.module, self.fast, phi)
                total = [a + b for a, b in zip(total, self._grads(beta, self.fast), strict=True)]
            return [x / draws for x in total]

    def inner(self, phi: Weights) -> float:
        """`L_in` at phi."""
        return float(self._measure("inner", phi))

    def outer(self, phi: Weights) -> float:
        """`L_out` at phi."""
        return float(self._measure("outer", phi))

    def unseen(self, names: Sequence[str]) -> list[str]:
        """Those of the slow parameters that are in the graph of neither loss."""
        self.put(self.start)
        left = list(names)
        for _ in range(DRAWS):  # each goes on with the random numbers and batches of the one before
            load(self.problem.module, self.fast, self.start)
            with torch.enable_grad(), freeze(self.fast):
                loss = self.loss(1.0)
                if left and loss.requires_grad:
                    params = [self.slow[name] for name in left]
                    grads = torch.autograd.grad(loss, params, allow_unused=True)
                    left = [name for name, g in zip(left, grads, strict=True) if g is None]
            if not left:
                break
        return left

    def check(self, others: Iterable[Callable[[Sequence[str]], list[str]]]) -> None:
        """Raise where a loss differs from itself, or no task's losses depend on a slow parameter.

        Args:
            others: `unseen` of the other tasks.
        """
        for name in ("inner", "outer"):
            self._check_repeats(name)
        self._check_learns()
        left = self.unseen(list(self.slow))
        for unseen in others:
            if not left:
                break
            left = unseen(left)
        refuse_unseen(left, INSTEAD)

    def _drawn_by_outer(self, phi: Weights) -> list[str]:
        """NumPy's and Python's generators, if the outer loss draws from them."""
        self.put(phi)
        with torch.no_grad():
            before = self.random_state()
            self._scalar("outer")
        return drew(before, self.random_state())

    def _check_repeats(self, name: str) -> None:
        one, two = (self._measure(name, self.start) for _ in range(2))
        # On a GPU sums may come in another order.
        tol = torch.finfo(one.dtype).eps ** 0.5
        if not torch.isclose(one, two, rtol=tol, atol=0.0, equal_nan=True):
            raise ValueError(
                f"{name}: is {float(one):.6g} and then {float(two):.6g} for the same weights and "
                "random numbers, so that phases would differ by more than the nudge, divided by "
                "beta. Wrap a DataLoader as Batches(loader) and take next() of that; draw random "
                "numbers from the default generators of torch, NumPy or Python; keep what the "
                "module remembers in buffers."
            )

    def _check_learns(self) -> None:
        """Raise where the inner loss is a constant to phi, or the outer one to phi and theta."""
        kept = "use the module it is handed, and no torch.no_grad(), .item(), .detach() or .data."
        self.put(self.start)
        with torch.enable_grad(), freeze(self.slow.values()):
            if not self._scalar("inner").requires_grad:
                names = ", ".join(self.problem.fast)
                raise ValueError(
                    f"inner: depends on none of the fast parameters, {names}, so that there is "
                    f"nothing to learn; {kept}"
                )
        with torch.enable_grad():
            if not self._scalar("outer").requires_grad:
                raise ValueError(
                    "outer: depends on none of the parameters, so that every gradient of it is 0; "
                    f"{kept}"
                )

    def has_drawn(self) -> bool:
        """Whether random numbers or batches have been drawn since `put`."""
        now = self.random_state()
        moved = any(not torch.equal(now[x], self.random[x]) for x in ("torch", *self.devices))
        return moved or bool(drew(self.random, now)) or any(self.batches.positions().values())

    def _grads(self, beta: float, params: Iterable[nn.Parameter]) -> list[torch.Tensor]:
        """Of the module as it is now."""
        params = list(params)
        with torch.enable_grad():
            loss = self.loss(beta)
            if not loss.requires_grad:  # none of them in L_in, where beta is 0
                return [torch.zeros_like(p) for p in params]
            grads = torch.autograd.grad(loss, params, materialize_grads=True)
        return [g.to_dense() if g.layout != torch.strided else g for g in grads]

    def _measure(self, name: str, phi: Weights) -> torch.Tensor:
        self.put(phi)
        with torch.no_grad():
            return self._scalar(name)

    def _scalar(self, name: str) -> torch.Tensor:
        problem = self.problem
        loss: LossFunction = getattr(problem, name)
        try:
            evaluate = name == "outer" and problem.outer_mode == "eval"
            with modes_kept(self.parts, evaluate):
                value = loss(problem.module, self.task)
        except StopIteration as error:
            raise ValueError(
                f"{name}: came to the end of an iterator; wrap its DataLoader as Batches(loader), "
                "of which next() goes on, epoch after epoch, and gives each phase the same batches."
            ) from error
        except (AttributeError, LookupError, TypeError) as error:
            hint = (
                "wrap each DataLoader as Batches(loader), of which next() is a mini-batch"
                if "DataLoader" in str(error)
                else "give it what it is written for; it is called with (module, task)"
            )
            raise TypeError(
                f"{name}: does not take this `task`, one of the `tasks`, {shown(self.task)} "
                f"({type(error).__name__}: {error}); {hint}."
            ) from error
        if not torch.is_tensor(value) or value.numel() != 1 or not value.is_floating_point():
            kind = f"{value.dtype}{list(value.shape)}" if torch.is_tensor(value) else repr(value)
            raise ValueError(
                f"{name}: must return a tensor of one floating number, not {kind}; take the mean "
                "or the sum over examples."
            )
        return value


@contextmanager
def phases_of(problem: Problem, task: PyTree) -> Iterator[Phases]:
    """A task begins, after `init`; in the end what it changed is what it was."""
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            "metacontrast.torch: learns by gradients, which torch.inference_mode() rules out; "
            "leave that block (torch.no_grad() is no hindrance)."
        )
    module, slow, fast = problem.module, problem.slow, list(problem.fast.values())
    parts, devices = list(module.modules()), gpus(module)
    before = save(module, fast)
    with grads_kept(fast), modes_kept(parts), recording() as batches:
        try:
            if problem.init is not None:
                with torch.no_grad():
                    problem.init(module, task)
            start, random = save(module, fast), random_state(devices)
            batches.random = random
            yield Phases(problem, task, slow, fast, parts, devices, start, random, batches)
        finally:
            restore(module, fast, before)


def go_on(state: RandomState, batches: Recording) -> None:
    """The generators go on from `state`; after batches with other ones for the next task."""
    set_random_state(state)
    if batches.used:
        torch.rand(())
