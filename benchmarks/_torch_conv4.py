"""The free phase of Conv4 in PyTorch, on its own convolutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from ._conv4 import Conv4Case
from ._torch_threads import on_threads


def network(case: Conv4Case, omega: Any) -> nn.Sequential:
    """Conv4 with the weights `omega` of ours: convolutions (k, k, inputs, outputs), and a head."""
    layers: list[nn.Module] = []
    for layer in omega[:-1]:
        w = torch.tensor(np.asarray(layer["w"])).permute(3, 2, 0, 1).contiguous()
        conv = nn.Conv2d(w.shape[1], w.shape[0], 3, 2 if case.strided else 1, 1)
        norm = nn.BatchNorm2d(w.shape[0], track_running_stats=False)
        values = (w, *(torch.tensor(np.asarray(layer[key])) for key in ("b", "gain", "shift")))
        for p, value in zip((*conv.parameters(), *norm.parameters()), values, strict=True):
            p.data = value
        layers += [conv, norm, nn.ReLU(), *([] if case.strided else [nn.MaxPool2d(2)])]
    # Our head sees (height, width, channels), this one (channels, height, width).
    w = np.asarray(omega[-1]["w"])
    side = int((len(w) / case.filters) ** 0.5)
    w = w.reshape(side, side, case.filters, -1).transpose(3, 2, 0, 1).reshape(w.shape[1], -1)
    head = nn.Linear(w.shape[1], w.shape[0])
    for p, value in zip(head.parameters(), (w, np.asarray(omega[-1]["b"])), strict=True):
        p.data = torch.tensor(value)
    return nn.Sequential(*layers, nn.Flatten(), head)


def torch_programs(case: Conv4Case, omega: Any, data: Any) -> dict[str, Callable[[], np.ndarray]]:
    """The learner in both layouts of memory, each with one thread and with all."""
    return {
        f"{'channels last' if last else 'contiguous'}, {n} threads": on_threads(
            n, learner(case, omega, data, last)
        )
        for last in (False, True)
        for n in sorted({1, torch.get_num_threads()})
    }


def learner(
    case: Conv4Case, omega: Any, data: Any, channels_last: bool
) -> Callable[[], np.ndarray]:
    """Learns every task, one after the other; gives the first layer's weights of each."""
    memory = torch.channels_last if channels_last else torch.contiguous_format
    net = network(case, omega).to(memory_format=memory)
    x = torch.tensor(np.asarray(data.x)).permute(0, 1, 4, 2, 3)
    tasks = [
        (images.contiguous(memory_format=memory), classes)
        for images, classes in zip(x, torch.tensor(np.asarray(data.y)).long(), strict=True)
    ]
    start = [p.detach().clone() for p in net.parameters()]
    phi = list(net.parameters())

    def learn() -> np.ndarray:
        weights = []
        for images, classes in tasks:
            _train(net, phi, start, images, classes, case)
            weights.append(phi[0].detach().permute(2, 3, 1, 0).numpy().copy())
        return np.stack(weights)

    return learn


def _train(
    net: nn.Module, phi: Any, start: Any, images: Any, classes: Any, case: Conv4Case
) -> None:
    with torch.no_grad():
        torch._foreach_copy_(phi, start)
    omega = torch.cat([w.reshape(-1) for w in start])
    optimizer = torch.optim.SGD(phi, case.rate, case.momentum, nesterov=True)
    for _ in range(case.steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(images), classes)
        pull = ((torch.cat([w.reshape(-1) for w in phi]) - omega) ** 2).sum()
        (loss + case.pull * pull).backward()
        optimizer.step()
