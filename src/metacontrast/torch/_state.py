"""What a phase changes and what is put back: fast weights, buffers, random numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import jax
import torch
from torch import nn

RandomState: TypeAlias = dict[torch.device | str, torch.Tensor]  # of each generator


@partial(jax.tree_util.register_dataclass, data_fields=["fast"], meta_fields=["buffers"])
@dataclass(frozen=True)
class Weights:
    """phi, the fast weights; and the buffers (batch norm's statistics) that go with them.

    To the rule, only phi is a number: it measures no distance between buffers.
    """

    fast: list[torch.Tensor]
    buffers: dict[str, torch.Tensor]


def save(module: nn.Module, fast: list[nn.Parameter]) -> Weights:
    """Copies of the fast weights and of all buffers."""
    buffers = {name: b.detach().clone() for name, b in module.named_buffers()}
    return Weights([p.detach().clone() for p in fast], buffers)


def load(module: nn.Module, fast: list[nn.Parameter], weights: Weights) -> None:
    """Put saved weights back, in place."""
    buffers = dict(module.named_buffers())
    with torch.no_grad():
        for p, value in zip(fast, weights.fast, strict=True):
            p.copy_(value)
        for name, value in weights.buffers.items():
            buffers[name].copy_(value)


@contextmanager
def freeze(params: Iterable[nn.Parameter]) -> Iterator[None]:
    """No graph is built for `params`, and none of them gets a gradient."""
    params = list(params)
    for p in params:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in params:
            p.requires_grad_(True)


def random_state(module: nn.Module) -> RandomState:
    """The states of torch's default generators: the CPU's, and those of the module's GPUs."""
    devices = {p.device for p in module.parameters() if p.device.type == "cuda"}
    return {"cpu": torch.get_rng_state()} | {d: torch.cuda.get_rng_state(d) for d in devices}


def set_random_state(state: RandomState) -> None:
    """The next random numbers are those that followed `state`."""
    for device, numbers in state.items():
        if device == "cpu":
            torch.set_rng_state(numbers)
        else:
            torch.cuda.set_rng_state(numbers, device)
