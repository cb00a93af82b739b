"""The complex synapse: each fast weight is pulled to a slow one, with a slow strength."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import nn

from .._must import positive
from .._types import PyTree


class Synapse(nn.Module):
    """A module whose every fast weight phi_i is pulled to a slow omega_i with a slow lambda_i.

        pull() = sum_i lambda_i (phi_i - omega_i)^2,

    to be added to the inner loss; without a factor 1/2, as in the paper. Called, it is the module.
    Name `omega.*` and `log_lam.*` in `meta`, with a prefix if it is a part of something larger. To
    keep one of them fixed, freeze it, `log_lam.requires_grad_(False)`: what is neither named nor
    frozen is fast.

    Args:
        fast: the module; its parameters are those that are pulled.
        lam: the first strength of every weight, positive.

    Attributes:
        omega: resting points, a `ParameterList` in the order of `fast.parameters()`; first copies.
        log_lam: the logarithm of lambda, which keeps it positive, in the same shapes.

    Reference: Zucchet et al., 2022, section on complex synapses.

    Example:
        >>> synapse = Synapse(nn.Linear(2, 1, bias=False), lam=0.5)
        >>> with torch.no_grad():
        ...     _ = synapse.omega[0].copy_(synapse.fast.weight + 2)
        >>> round(synapse.pull().item(), 3)
        4.0
        >>> synapse.reset()
        >>> synapse.pull().item()
        0.0
    """

    def __init__(self, fast: nn.Module, lam: Annotated[float, positive("try 1")] = 1.0) -> None:
        super().__init__()
        copies = [p.detach().clone() for p in fast.parameters()]
        self.fast = fast
        self.omega = nn.ParameterList(copies)
        self.log_lam = nn.ParameterList(torch.full_like(p, math.log(lam)) for p in copies)

    def forward(self, *args: PyTree, **kwargs: PyTree) -> PyTree:
        """The module's own answer."""
        return self.fast(*args, **kwargs)

    def pull(self) -> torch.Tensor:
        """`sum_i lambda_i (phi_i - omega_i)^2`."""
        all_of = nn.utils.parameters_to_vector  # one vector: its five operations, not five a layer
        phi, omega = all_of(self.fast.parameters()), all_of(self.omega)
        return (all_of(self.log_lam).exp() * (phi - omega) ** 2).sum()

    def reset(self, task: PyTree = None) -> None:
        """Set every fast weight to its omega; as `Problem(init=Synapse.reset)`, for each task."""
        with torch.no_grad():
            for p, o in zip(self.fast.parameters(), self.omega, strict=True):
                p.copy_(o)
