"""The sine task with higher and with TorchOpt, each used as its documentation has it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ._sine import Gradient, SineCase, flat
from ._torch_pieces import (
    as_vector,
    by_task,
    for_each_task,
    module,
    pull,
    squares,
    stacked,
    theta,
    total,
    weights,
)


def higher_unrolled(case: SineCase) -> Gradient:
    """`higher.innerloop_ctx`, as its documentation has it."""
    import higher

    net, log_lam = module(case), theta(case)[1]
    omega = list(net.parameters())

    def unrolled(task: Any) -> list[torch.Tensor]:
        optimizer = torch.optim.SGD(net.parameters(), case.rate, case.momentum, nesterov=True)
        slow = as_vector(omega), as_vector(log_lam).exp()
        with higher.innerloop_ctx(net, optimizer, copy_initial_weights=False) as (f, inner):
            for _ in range(case.steps):
                phi = list(f.parameters())
                inner.step(((f(task[0][0]) - task[0][1]) ** 2).sum() + pull(phi, *slow))
            loss = ((f(task[1][0]) - task[1][1]) ** 2).sum()
            return list(torch.autograd.grad(loss, omega + log_lam))

    return by_task(case, unrolled)


def torchopt_unrolled(case: SineCase) -> Gradient:
    """`torchopt.MetaSGD`, as its documentation has it."""
    import torchopt

    net, log_lam = module(case), theta(case)[1]
    omega = list(net.parameters())
    optimizer = torchopt.MetaSGD(net, case.rate, case.momentum, nesterov=True)
    first = [torchopt.extract_state_dict(x, by="reference") for x in (net, optimizer)]

    def unrolled(task: Any) -> list[torch.Tensor]:
        slow = as_vector(omega), as_vector(log_lam).exp()
        for _ in range(case.steps):
            loss = ((net(task[0][0]) - task[0][1]) ** 2).sum()
            optimizer.step(loss + pull(list(weights(net)), *slow))
        loss = ((net(task[1][0]) - task[1][1]) ** 2).sum()
        grads = list(torch.autograd.grad(loss, omega + log_lam))
        for x, state in zip((net, optimizer), first, strict=True):
            torchopt.recover_state_dict(x, state)
        return grads

    return by_task(case, unrolled)


def torchopt_vmap(case: SineCase) -> Gradient:
    """TorchOpt's functional optimiser, and the tasks side by side by `torch.func.vmap`."""
    import torchopt

    (omega, log_lam), tasks = theta(case), stacked(case)
    optimizer = torchopt.sgd(case.rate, case.momentum, nesterov=True)

    def step() -> np.ndarray:
        slow = as_vector(omega), as_vector(log_lam).exp()
        phi = tuple(for_each_task(omega, case))
        state = optimizer.init(phi)
        for _ in range(case.steps):
            loss = total(list(phi), *slow, tasks, 0.0)
            grads = torch.autograd.grad(loss, phi, create_graph=True)
            updates, state = optimizer.update(grads, state, inplace=False)
            phi = torchopt.apply_updates(phi, updates, inplace=False)
        value = torch.func.vmap(squares)(list(phi), tasks[1]).mean()
        return flat(torch.autograd.grad(value, omega + log_lam))

    return step
