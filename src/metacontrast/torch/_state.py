"""What a phase changes and what is put back: fast weights, buffers, modes, random numbers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import numpy as np
import torch
from torch import nn

from .._arrays import is_narrow
from .._types import PyTree

RandomState: TypeAlias = dict[object, PyTree]  # of each generator
# How the state of each generator on the host is got and set.
HOST: dict[str, tuple[Callable[[], PyTree], Callable[[PyTree], object]]] = {
    "torch": (torch.get_rng_state, torch.set_rng_state),
    "numpy": (np.random.get_state, np.random.set_state),
    "python": (random.getstate, random.setstate),
}


class Buffer(NamedTuple):
    """A buffer as it was: the tensor that held it, and a copy."""

    held: torch.Tensor | None
    value: torch.Tensor | None


Buffers: TypeAlias = dict[tuple[str, str], Buffer]  # by module and name


@partial(jax.tree_util.register_dataclass, data_fields=["fast"], meta_fields=["buffers"])
@dataclass(frozen=True)
class Weights:
    """phi, the fast weights; and the buffers (batch norm's statistics) that go with them.

    To the rule, only phi is a number: it measures no distance between buffers.
    """

    fast: list[torch.Tensor]
    buffers: Buffers


def save(module: nn.Module, fast: list[nn.Parameter]) -> Weights:
    """Copies of the fast weights and of all buffers, also of those that are None."""
    copies: dict[int, torch.Tensor] = {}  # what two modules share, they share in the copy

    def copied(held: torch.Tensor | None) -> Buffer:
        if held is None:
            return Buffer(None, None)
        value = copies.setdefault(id(held), held.detach().clone())
        return Buffer(held, value)

    buffers = {
        (path, name): copied(held)
        for path, part in module.named_modules()
        for name, held in part._buffers.items()
    }
    return Weights([p.detach().clone() for p in fast], buffers)


def load(module: nn.Module, fast: list[nn.Parameter], weights: Weights) -> None:
    """Put saved weights into the module, for a phase to go on from.

    A buffer that was replaced is replaced once more, by a copy: the tensor that holds it now may be
    anyone's (the batch it was taken from).
    """
    with torch.no_grad():
        for p, value in zip(fast, weights.fast, strict=True):
            p.copy_(value)
        copies: dict[int, torch.Tensor] = {}
        for part, name, buffer in _each(module, weights.buffers):
            held, value = buffer
            if held is None or value is None:
                part._buffers[name] = None
            elif part._buffers.get(name) is held and held.shape == value.shape:
                _write(held, value)
            else:
                part._buffers[name] = copies.setdefault(id(value), value.clone())


def restore(module: nn.Module, fast: list[nn.Parameter], weights: Weights) -> None:
    """Leave the module as it was when the weights were saved, with the same tensors as buffers."""
    with torch.no_grad():
        for p, value in zip(fast, weights.fast, strict=True):
            p.copy_(value)
        for part, name, buffer in _each(module, weights.buffers):
            held, value = buffer
            part._buffers[name] = held
            if held is not None and value is not None:
                if held.shape != value.shape:
                    held.resize_(value.shape)
                _write(held, value)


def _each(module: nn.Module, buffers: Buffers) -> list[tuple[nn.Module, str, Buffer]]:
    """Where each of the buffers belongs; those that came after them go."""
    parts = dict(module.named_modules())
    for path, part in parts.items():
        for name in [name for name in part._buffers if (path, name) not in buffers]:
            del part._buffers[name]
    return [(parts[path], name, buffer) for (path, name), buffer in buffers.items()]


def _write(held: torch.Tensor, value: torch.Tensor) -> None:
    """In place, where it changed: what nothing writes may be memory that cannot be written."""
    if not torch.equal(held, value):  # versions do not tell: batch norm writes without a count
        held.copy_(value)


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


@contextmanager
def widened(params: Iterable[nn.Parameter]) -> Iterator[None]:
    """Parameters of 16 bits hold the same numbers in float32, to which their gradients are rounded.

    A gradient has the type of what it is by: those of two phases, rounded to 16 bits, would differ
    by little else than that.
    """
    before = [(p, p.data) for p in params if is_narrow(p)]
    try:
        for p, data in before:
            p.data = data.float()
        yield
    finally:
        for p, data in before:
            p.data = data


@contextmanager
def modes_kept(parts: Sequence[nn.Module], evaluate: bool = False) -> Iterator[None]:
    """In the end each part is in the mode it was in; in between, if asked for, in that of eval().

    By the flags themselves: the `train()` of some modules changes their weights too.
    """
    modes = [part.training for part in parts]
    try:
        if evaluate:
            _set_modes(parts, [False] * len(modes))
        yield
    finally:
        _set_modes(parts, modes)


def _set_modes(parts: Sequence[nn.Module], modes: Sequence[bool]) -> None:
    for part, training in zip(parts, modes, strict=True):
        if part.training != training:
            part.training = training


@contextmanager
def grads_kept(tensors: Iterable[torch.Tensor]) -> Iterator[None]:
    """In the end each tensor's `.grad` is the one it was; in between it is None at first."""
    before = [(t, t.grad) for t in tensors]
    for t, _ in before:
        t.grad = None
    try:
        yield
    finally:
        for t, grad in before:
            t.grad = grad


def gpus(module: nn.Module) -> list[torch.device]:
    """Those that the module is on."""
    return list({p.device for p in module.parameters() if p.device.type == "cuda"})


def random_state(devices: Iterable[torch.device] = (), names: Iterable[str] = HOST) -> RandomState:
    """Of default generators: torch's, those of GPUs too, NumPy's and Python's."""
    state: RandomState = {name: HOST[name][0]() for name in names}
    return state | {device: torch.cuda.get_rng_state(device) for device in devices}


def set_random_state(state: RandomState) -> None:
    """The next random numbers are those that followed `state`."""
    for name, numbers in state.items():
        if isinstance(name, str):
            HOST[name][1](numbers)
        else:
            torch.cuda.set_rng_state(numbers, name)


def drew(one: RandomState, two: RandomState) -> list[str]:
    """Which of NumPy's and Python's generators went on from one state to the other."""
    numpy = all(np.array_equal(a, b) for a, b in zip(one["numpy"], two["numpy"], strict=True))
    python = one["python"] == two["python"]
    return [name for name, same in {"numpy": numpy, "python": python}.items() if not same]
