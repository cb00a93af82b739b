"""The sine task in PyTorch alone: task by task, and side by side by `torch.func.vmap`."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch

from ._sine import Case, Step, flat
from ._torch_pieces import (
    Weights,
    augmented,
    by_task,
    count,
    descended,
    flattened,
    spread,
    squares,
    stacked,
    theta,
    total,
)


def eager_contrastive(at: Case) -> Step:
    """`torch.optim.SGD` in plain loops, one task after the other; the symmetric rule by hand."""
    omega, log_lam = theta(at)

    def learned(task: Any, start: Weights, steps: int, beta: float) -> Weights:
        phi = [w.detach().clone().requires_grad_() for w in start]
        optimizer = torch.optim.SGD(phi, at.rate, at.momentum, nesterov=True)
        with torch.no_grad():
            slow = flattened(omega), flattened(log_lam).exp()
        for _ in range(steps):
            optimizer.zero_grad()
            augmented(phi, *slow, task, beta).backward()
            optimizer.step()
        return [w.detach() for w in phi]

    def contrast(task: Any) -> list[torch.Tensor]:
        phi_0 = learned(task, omega, at.steps, 0.0)
        total = 0.0
        for beta in (at.beta, -at.beta):
            phi = learned(task, phi_0, at.nudged, beta)
            slow = flattened(omega), flattened(log_lam).exp()
            total = total + augmented(phi, *slow, task, beta) / (2 * beta)
        return list(torch.autograd.grad(total, omega + log_lam))

    return by_task(at, contrast)


def eager_unrolled(at: Case) -> Step:
    """Backpropagation through the same loop, one task after the other, without a library."""
    omega, log_lam = theta(at)

    def unrolled(task: Any) -> list[torch.Tensor]:
        slow = flattened(omega), flattened(log_lam).exp()
        phi = descended(at, omega, lambda phi: augmented(phi, *slow, task), True)
        return list(torch.autograd.grad(squares(phi, task[1]), omega + log_lam))

    return by_task(at, unrolled)


def vmap_contrastive(at: Case) -> Step:
    """The tasks side by side by `torch.func.vmap`."""
    (omega, log_lam), tasks = theta(at), stacked(at)

    def step() -> np.ndarray:
        slow = flattened(omega), flattened(log_lam).exp()
        held = [leaf.detach() for leaf in slow]
        loss = partial(total, omega=held[0], lam=held[1], tasks=tasks)
        phi_0 = descended(at, spread(omega, at), partial(loss, beta=0.0), False)
        value = torch.zeros(())
        for beta in (at.beta, -at.beta):
            phi = descended(at, phi_0, partial(loss, beta=beta), False, at.nudged)
            value = value + total(phi, *slow, tasks, beta) / (2 * beta * count(at))
        return flat(torch.autograd.grad(value, omega + log_lam))

    return step


def vmap_unrolled(at: Case) -> Step:
    """Backpropagation through training, the tasks side by side."""
    (omega, log_lam), tasks = theta(at), stacked(at)

    def step() -> np.ndarray:
        slow = flattened(omega), flattened(log_lam).exp()
        loss = lambda phi: total(phi, *slow, tasks, 0.0)
        phi = descended(at, spread(omega, at), loss, True)
        value = torch.func.vmap(squares)(phi, tasks[1]).mean()
        return flat(torch.autograd.grad(value, omega + log_lam))

    return step
