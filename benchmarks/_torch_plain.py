"""The sine task in PyTorch alone: task by task, and side by side by `torch.func.vmap`."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch

from ._sine import Gradient, SineCase, flat
from ._torch_pieces import (
    Weights,
    as_vector,
    augmented,
    by_task,
    count,
    descend,
    for_each_task,
    squares,
    stacked,
    theta,
    total,
)


def eager_contrastive(case: SineCase) -> Gradient:
    """`torch.optim.SGD` in plain loops, one task after the other; the symmetric rule by hand."""
    omega, log_lam = theta(case)

    def learn(task: Any, start: Weights, steps: int, beta: float) -> Weights:
        phi = [w.detach().clone().requires_grad_() for w in start]
        optimizer = torch.optim.SGD(phi, case.rate, case.momentum, nesterov=True)
        with torch.no_grad():
            slow = as_vector(omega), as_vector(log_lam).exp()
        for _ in range(steps):
            optimizer.zero_grad()
            augmented(phi, *slow, task, beta).backward()
            optimizer.step()
        return [w.detach() for w in phi]

    def contrast(task: Any) -> list[torch.Tensor]:
        phi_0 = learn(task, omega, case.steps, 0.0)
        total = 0.0
        for beta in (case.beta, -case.beta):
            phi = learn(task, phi_0, case.nudged, beta)
            slow = as_vector(omega), as_vector(log_lam).exp()
            total = total + augmented(phi, *slow, task, beta) / (2 * beta)
        return list(torch.autograd.grad(total, omega + log_lam))

    return by_task(case, contrast)


def eager_unrolled(case: SineCase) -> Gradient:
    """Backpropagation through the same loop, one task after the other, without a library."""
    omega, log_lam = theta(case)

    def unrolled(task: Any) -> list[torch.Tensor]:
        slow = as_vector(omega), as_vector(log_lam).exp()
        phi = descend(case, omega, lambda phi: augmented(phi, *slow, task), True)
        return list(torch.autograd.grad(squares(phi, task[1]), omega + log_lam))

    return by_task(case, unrolled)


def vmap_contrastive(case: SineCase) -> Gradient:
    """The tasks side by side by `torch.func.vmap`."""
    (omega, log_lam), tasks = theta(case), stacked(case)

    def step() -> np.ndarray:
        slow = as_vector(omega), as_vector(log_lam).exp()
        fixed = [leaf.detach() for leaf in slow]
        loss = partial(total, omega=fixed[0], lam=fixed[1], tasks=tasks)
        phi_0 = descend(case, for_each_task(omega, case), partial(loss, beta=0.0), False)
        value = torch.zeros(())
        for beta in (case.beta, -case.beta):
            phi = descend(case, phi_0, partial(loss, beta=beta), False, case.nudged)
            value = value + total(phi, *slow, tasks, beta) / (2 * beta * count(case))
        return flat(torch.autograd.grad(value, omega + log_lam))

    return step


def vmap_unrolled(case: SineCase) -> Gradient:
    """Backpropagation through training, the tasks side by side."""
    (omega, log_lam), tasks = theta(case), stacked(case)

    def step() -> np.ndarray:
        slow = as_vector(omega), as_vector(log_lam).exp()
        loss = lambda phi: total(phi, *slow, tasks, 0.0)
        phi = descend(case, for_each_task(omega, case), loss, True)
        value = torch.func.vmap(squares)(phi, tasks[1]).mean()
        return flat(torch.autograd.grad(value, omega + log_lam))

    return step
