"""What is learned: a module of which some parameters are slow, and its two losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Literal, TypeAlias

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from .._must import advice
from .._types import PyTree

LossFunction: TypeAlias = Callable[[nn.Module, PyTree], torch.Tensor]


@dataclass(frozen=True)
class Problem:
    """What is learned: a module whose slow parameters say how its fast ones learn a task.

    The free phase minimises `inner` over the fast parameters; `outer` judges what was learned and
    is what the meta-gradient, with respect to the slow ones, improves. A parameter with
    `requires_grad=False` is neither: it stays as it is.

    Args:
        module: holds all parameters, fast and slow: weights, and those of a regulariser (see
            `Synapse`).
        inner: `(module, task) -> scalar tensor`, the loss the learner minimises.
        outer: `(module, task) -> scalar tensor`, the loss on held-out data.
        meta: names of the slow parameters, as `module.named_parameters()` says them, or patterns
            of names: `["omega.*"]`, `["body.*"]`. All others are fast.
        init: `(module, task)`, which sets the fast parameters to where a task's learning starts, in
            place (`Synapse.reset`). Default: where they are when the call is made; it leaves them
            there. The rule finds no gradient through `init`: a slow parameter that is to draw the
            start to itself must be in a loss too.
        outer_mode: of the module and its parts while `outer` runs: "eval", in which a network is
            judged (no dropout, batch norm by its running statistics), or "inner", the same as that
            of `inner`. The inner loss is taken in the mode that each part is in, `train()` or
            `eval()`.

    Raises:
        TypeError: a module that is none; losses that are no functions.
        ValueError: a pattern that fits no parameter or a frozen one; no fast parameter left;
            parameters not yet initialised; an unknown mode.

    Example: a slow body and a fast head.
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))
        >>> mse = lambda net, data: torch.nn.functional.mse_loss(net(data.x), data.y)
        >>> problem = Problem(
        ...     net,
        ...     inner=lambda net, task: mse(net, task.train),
        ...     outer=lambda net, task: mse(net, task.test),
        ...     meta=["0.*"],
        ... )
        >>> list(problem.slow), list(problem.fast)
        (['0.weight', '0.bias'], ['2.weight', '2.bias'])
    """

    module: Annotated[nn.Module, advice("put several into a torch.nn.ModuleDict")]
    inner: LossFunction
    outer: LossFunction
    meta: Annotated[Sequence[str], advice("write ['omega.*'], names or patterns of them")]
    init: Callable[[nn.Module, PyTree], object] | None = None
    outer_mode: Literal["eval", "inner"] = "eval"

    def __post_init__(self) -> None:
        names = dict(self.module.named_parameters())
        if lazy := [name for name, p in names.items() if isinstance(p, UninitializedParameter)]:
            raise ValueError(
                f"module: {', '.join(lazy)} is not initialised; run the module on a batch first."
            )
        for pattern in self.meta:
            matches = [name for name in names if fnmatchcase(name, pattern)]
            if not matches:
                is_plain = torch.is_tensor(getattr(self.module, pattern, None))
                raise ValueError(
                    f"meta: {pattern!r} fits no parameter of the module, which has "
                    f"{', '.join(names) or 'none'}"
                    + ("; it is a tensor: make it a torch.nn.Parameter." if is_plain else ".")
                )
            if frozen := [name for name in matches if not names[name].requires_grad]:
                raise ValueError(
                    f"meta: {', '.join(frozen)} has requires_grad=False; set it to True, or do not "
                    "name it."
                )
        if not self.slow or not self.fast:
            raise ValueError(
                f"meta: leaves {len(self.slow)} slow and {len(self.fast)} fast parameters; there "
                "must be at least one of each that requires_grad."
            )

    @property
    def slow(self) -> dict[str, nn.Parameter]:
        """The meta-parameters by name; hand `slow.values()` to the outer optimiser."""
        return self._parameters(slow=True)

    @property
    def fast(self) -> dict[str, nn.Parameter]:
        """What a task's learner changes, by name."""
        return self._parameters(slow=False)

    def _parameters(self, slow: bool) -> dict[str, nn.Parameter]:
        is_slow = lambda name: any(fnmatchcase(name, pattern) for pattern in self.meta)
        parameters = self.module.named_parameters()
        return {name: p for name, p in parameters if p.requires_grad and is_slow(name) == slow}
