"""The sine task in PyTorch: plain, under `torch.func.vmap`, with higher and with TorchOpt.

One learner for all: see `Case`. Each function makes a `Step`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from ._sine import Case, Step, flat

Weights = list[torch.Tensor]


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


def higher_unrolled(at: Case) -> Step:
    """`higher.innerloop_ctx`, as its documentation has it."""
    import higher

    net, log_lam = module(at), theta(at)[1]
    omega = list(net.parameters())

    def unrolled(task: Any) -> list[torch.Tensor]:
        optimizer = torch.optim.SGD(net.parameters(), at.rate, at.momentum, nesterov=True)
        slow = flattened(omega), flattened(log_lam).exp()
        with higher.innerloop_ctx(net, optimizer, copy_initial_weights=False) as (f, inner):
            for _ in range(at.steps):
                phi = list(f.parameters())
                inner.step(((f(task[0][0]) - task[0][1]) ** 2).sum() + pull(phi, *slow))
            loss = ((f(task[1][0]) - task[1][1]) ** 2).sum()
            return list(torch.autograd.grad(loss, omega + log_lam))

    return by_task(at, unrolled)


def torchopt_unrolled(at: Case) -> Step:
    """`torchopt.MetaSGD`, as its documentation has it."""
    import torchopt

    net, log_lam = module(at), theta(at)[1]
    omega = list(net.parameters())
    optimizer = torchopt.MetaSGD(net, at.rate, at.momentum, nesterov=True)
    first = [torchopt.extract_state_dict(x, by="reference") for x in (net, optimizer)]

    def unrolled(task: Any) -> list[torch.Tensor]:
        slow = flattened(omega), flattened(log_lam).exp()
        for _ in range(at.steps):
            loss = ((net(task[0][0]) - task[0][1]) ** 2).sum()
            optimizer.step(loss + pull(list(weights(net)), *slow))
        loss = ((net(task[1][0]) - task[1][1]) ** 2).sum()
        grads = list(torch.autograd.grad(loss, omega + log_lam))
        for x, state in zip((net, optimizer), first, strict=True):
            torchopt.recover_state_dict(x, state)
        return grads

    return by_task(at, unrolled)


def torchopt_vmap(at: Case) -> Step:
    """TorchOpt's functional optimiser, and the tasks side by side by `torch.func.vmap`."""
    import torchopt

    (omega, log_lam), tasks = theta(at), stacked(at)
    optimizer = torchopt.sgd(at.rate, at.momentum, nesterov=True)

    def step() -> np.ndarray:
        slow = flattened(omega), flattened(log_lam).exp()
        phi = tuple(spread(omega, at))
        state = optimizer.init(phi)
        for _ in range(at.steps):
            loss = total(list(phi), *slow, tasks, 0.0)
            grads = torch.autograd.grad(loss, phi, create_graph=True)
            updates, state = optimizer.update(grads, state, inplace=False)
            phi = torchopt.apply_updates(phi, updates, inplace=False)
        value = torch.func.vmap(squares)(list(phi), tasks[1]).mean()
        return flat(torch.autograd.grad(value, omega + log_lam))

    return step


# The pieces.


def squares(phi: Weights, data: Any) -> torch.Tensor:
    """The sum of the network's squared errors."""
    x, y = data
    for i in (0, 2):
        x = torch.tanh(nn.functional.linear(x, phi[i], phi[i + 1]))
    return ((nn.functional.linear(x, phi[4], phi[5]) - y) ** 2).sum()


def pull(phi: Weights, omega: torch.Tensor, lam: torch.Tensor) -> torch.Tensor:
    """Of the complex synapses, on one long vector: far fewer small operations than by layers."""
    return (lam * (flattened(phi) - omega) ** 2).sum()


def augmented(phi: Weights, omega: Any, lam: Any, task: Any, beta: float = 0.0) -> torch.Tensor:
    """`L_in + beta L_out` of one task."""
    inner = squares(phi, task[0]) + pull(phi, omega, lam)
    return inner + beta * squares(phi, task[1]) if beta else inner


def flattened(leaves: Weights) -> torch.Tensor:
    """One vector."""
    return torch.cat([leaf.reshape(-1) for leaf in leaves])


def descended(
    at: Case, start: Weights, loss: Callable[[Weights], Any], graph: bool, steps: int | None = None
) -> Weights:
    """Nesterov's momentum out of place; with its `graph`, or without."""
    phi = list(start) if graph else [w.detach() for w in start]
    speed = [torch.zeros_like(w) for w in phi]
    for _ in range(steps or at.steps):
        phi = phi if graph else [w.requires_grad_() for w in phi]
        grads = torch.autograd.grad(loss(phi), phi, create_graph=graph)
        with torch.set_grad_enabled(graph):
            speed = torch._foreach_add(torch._foreach_mul(speed, at.momentum), grads)
            way = torch._foreach_add(grads, speed, alpha=at.momentum)
            phi = torch._foreach_add(phi, way, alpha=-at.rate)
    return list(phi)


def total(phi: Weights, omega: Any, lam: Any, tasks: Any, beta: float) -> torch.Tensor:
    """The sum over the tasks, each with its own phi."""
    one = lambda phi, task: augmented(phi, omega, lam, task, beta)
    return torch.func.vmap(one)(phi, tasks).sum()


def count(at: Case) -> int:
    """How many tasks."""
    return len(at.train[0])


def spread(omega: Weights, at: Case) -> Weights:
    """omega as every task's first phi."""
    return [w.expand(count(at), *w.shape) for w in omega]


def theta(at: Case) -> tuple[Weights, Weights]:
    """omega and log lambda as leaves."""
    leaf = lambda w: torch.tensor(w, requires_grad=True)
    return [leaf(w) for w in at.omega], [leaf(w) for w in at.log_lam]


def module(at: Case) -> nn.Sequential:
    """The network with omega as its weights."""
    net = nn.Sequential(nn.Linear(1, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 1))
    for p, w in zip(net.parameters(), at.omega, strict=True):
        p.data = torch.tensor(w)
    return net


def weights(net: nn.Sequential) -> Iterator[torch.Tensor]:
    """The weights as they are now, whatever has been put in the parameters' place."""
    for layer in net:
        if isinstance(layer, nn.Linear):
            yield from (layer.weight, layer.bias)


def stacked(at: Case) -> Any:
    """The tasks as tensors: ((x, y) to learn from, (x, y) to be judged on)."""
    return tuple(tuple(torch.tensor(x) for x in half) for half in (at.train, at.test))


def by_task(at: Case, gradient: Callable[[Any], list[torch.Tensor]]) -> Step:
    """The mean over the tasks, one after the other."""
    halves = stacked(at)
    tasks = [tuple((x[i], y[i]) for x, y in halves) for i in range(count(at))]

    def step() -> np.ndarray:
        sums = [torch.stack(leaves).sum(0) for leaves in zip(*map(gradient, tasks), strict=True)]
        return flat(sums) / len(tasks)

    return step
