"""What the adapters to PyTorch share: the network, its learner, and its tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from ._sine import Gradient, SineCase, flat

Weights = list[torch.Tensor]


def squares(phi: Weights, data: Any) -> torch.Tensor:
    """The sum of the network's squared errors."""
    x, y = data
    for i in (0, 2):
        x = torch.tanh(nn.functional.linear(x, phi[i], phi[i + 1]))
    return ((nn.functional.linear(x, phi[4], phi[5]) - y) ** 2).sum()


def pull(phi: Weights, omega: torch.Tensor, lam: torch.Tensor) -> torch.Tensor:
    """Of the complex synapses, on one long vector: far fewer small operations than by layers."""
    return (lam * (as_vector(phi) - omega) ** 2).sum()


def augmented(phi: Weights, omega: Any, lam: Any, task: Any, beta: float = 0.0) -> torch.Tensor:
    """`L_in + beta L_out` of one task."""
    inner = squares(phi, task[0]) + pull(phi, omega, lam)
    return inner + beta * squares(phi, task[1]) if beta else inner


def as_vector(leaves: Weights) -> torch.Tensor:
    """One vector."""
    return torch.cat([leaf.reshape(-1) for leaf in leaves])


def descend(
    case: SineCase,
    start: Weights,
    loss: Callable[[Weights], Any],
    graph: bool,
    steps: int | None = None,
) -> Weights:
    """Nesterov's momentum out of place; with its `graph`, or without."""
    phi = list(start) if graph else [w.detach() for w in start]
    momentum = [torch.zeros_like(w) for w in phi]
    for _ in range(steps or case.steps):
        phi = phi if graph else [w.requires_grad_() for w in phi]
        grads = torch.autograd.grad(loss(phi), phi, create_graph=graph)
        with torch.set_grad_enabled(graph):
            momentum = torch._foreach_add(torch._foreach_mul(momentum, case.momentum), grads)
            move = torch._foreach_add(grads, momentum, alpha=case.momentum)
            phi = torch._foreach_add(phi, move, alpha=-case.rate)
    return list(phi)


def total(phi: Weights, omega: Any, lam: Any, tasks: Any, beta: float) -> torch.Tensor:
    """The sum over the tasks, each with its own phi."""
    one = lambda phi, task: augmented(phi, omega, lam, task, beta)
    return torch.func.vmap(one)(phi, tasks).sum()


def count(case: SineCase) -> int:
    """How many tasks."""
    return len(case.train[0])


def for_each_task(omega: Weights, case: SineCase) -> Weights:
    """omega as every task's first phi."""
    return [w.expand(count(case), *w.shape) for w in omega]


def theta(case: SineCase) -> tuple[Weights, Weights]:
    """omega and log lambda as leaves."""
    leaf = lambda w: torch.tensor(w, requires_grad=True)
    return [leaf(w) for w in case.omega], [leaf(w) for w in case.log_lam]


def module(case: SineCase) -> nn.Sequential:
    """The network with omega as its weights."""
    net = nn.Sequential(nn.Linear(1, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 1))
    for p, w in zip(net.parameters(), case.omega, strict=True):
        p.data = torch.tensor(w)
    return net


def weights(net: nn.Sequential) -> Iterator[torch.Tensor]:
    """The weights as they are now, whatever has been put in the parameters' place."""
    for layer in net:
        if isinstance(layer, nn.Linear):
            yield from (layer.weight, layer.bias)


def stacked(case: SineCase) -> Any:
    """The tasks as tensors: ((x, y) to learn from, (x, y) to be judged on)."""
    return tuple(tuple(torch.tensor(x) for x in half) for half in (case.train, case.test))


def by_task(case: SineCase, gradient: Callable[[Any], list[torch.Tensor]]) -> Gradient:
    """The mean over the tasks, one after the other."""
    halves = stacked(case)
    tasks = [tuple((x[i], y[i]) for x, y in halves) for i in range(count(case))]

    def step() -> np.ndarray:
        sums = [torch.stack(leaves).sum(0) for leaves in zip(*map(gradient, tasks), strict=True)]
        return flat(sums) / len(tasks)

    return step
