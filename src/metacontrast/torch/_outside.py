"""Tensors that losses use besides phi and theta: a solver's `backward()` is to leave them alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch

from ._state import grads_kept


@contextmanager
def outside_kept(
    loss: Callable[[], torch.Tensor], params: list[torch.nn.Parameter]
) -> Iterator[Callable[[], torch.Tensor]]:
    """The loss, of which `.backward()` fills the `.grad` of `params`, and puts back all others.

    What else it would fill (a teacher that the loss closes over) is found in its graph, before the
    solver gets to see it.

    Example:
        >>> teacher, phi = (torch.nn.Parameter(torch.tensor(x)) for x in (1.0, 3.0))
        >>> with outside_kept(lambda: (phi - teacher) ** 2, [phi]) as loss:
        ...     loss().backward()
        >>> phi.grad, teacher.grad
        (tensor(4.), None)
    """
    known = {id(p) for p in params}
    with ExitStack() as stack:

        def watched() -> torch.Tensor:
            value = loss()
            others = [leaf for leaf in _leaves(value) if id(leaf) not in known]
            stack.enter_context(grads_kept(others))
            known.update(map(id, others))
            kept.extend(others)  # an id is a tensor's only while that lives
            return value

        kept: list[torch.Tensor] = []
        yield watched


def _leaves(value: torch.Tensor) -> list[torch.Tensor]:
    """Those that a backward pass from `value` fills."""
    nodes, seen, leaves = [value.grad_fn], set(), []
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.append(node.variable)
        nodes += [parent for parent, _ in node.next_functions]
    return leaves
