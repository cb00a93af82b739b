"""The meta-step: learn freely, learn nudged, and leave the contrast in `.grad`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from .._estimator._base import MetaGradient
from .._estimator._contrastive import Contrastive
from .._types import PyTree
from ..external import Learner, MeanMetaGradient, meta_gradient
from ..external._parallel import mean_of
from ..external._rule import real_stencil
from ..train import DivergedError
from ..train._divergence import is_far_above
from ._phases import Phases, phases_of
from ._problem import Problem
from ._solver import Solver
from ._state import Weights, load, random_state, set_random_state


def backward(
    problem: Problem,
    solver: Solver,
    rule: Contrastive,
    tasks: PyTree,
    nudged: Solver | None = None,
) -> MeanMetaGradient:
    """Add the mean meta-gradient of `tasks` to `.grad` of the slow parameters.

    The same rule as in JAX: `sum_k w_k dL/dtheta(phi_{b_k}, b_k)`, each nudged phase from `phi_0`.
    As after a loss's `backward()`, any `torch.optim` optimiser takes the outer step.

    Step t of every phase draws the same random numbers (dropout, mini-batches chosen by
    `torch.randperm`) from torch's default generators, which end where the free phase left them.
    Fast weights end where they were before the call, and so do buffers: batch norm's running
    statistics are a task's own, carried from the free into the nudged phases. Memory does not
    depend on the number of steps.

    A task that diverges (its value or gradient is not finite, or its inner loss ended far above
    where it started) adds nothing to `.grad`, and is counted.

    Args:
        problem: what is learned.
        solver: how, see `descend`.
        rule: `Contrastive(beta, scheme, order, control=...)`.
        tasks: a list of tasks, or one task, which is anything but a list.
        nudged: solver of the nudged phases. Default: `solver`.

    Returns:
        The mean `value` of the outer loss at `phi_0`, the mean meta-gradient `by_theta` by name,
        the `aux` of each task that was learned (see `external.meta_gradient`), and `failed`, the
        number of each task that was not and why.

    Raises:
        ValueError: no tasks; a rule that needs JAX; losses that are no numbers, or in which there
            is no slow parameter.
        DivergedError: every task diverged. `.grad` is as it was.

    Example: learn where a weight is pulled to, and how strongly.
        >>> from metacontrast.torch import Synapse, descend
        >>> synapse = Synapse(torch.nn.Linear(1, 1, bias=False))
        >>> problem = Problem(
        ...     synapse,
        ...     inner=lambda synapse, y: ((synapse.fast.weight - y) ** 2).sum() + synapse.pull(),
        ...     outer=lambda synapse, y: (synapse.fast.weight ** 2).sum(),
        ...     meta=["omega.*", "log_lam.*"],
        ...     init=Synapse.reset,
        ... )
        >>> _ = torch.nn.init.constant_(synapse.omega[0], 1.0)
        >>> solver = descend(lambda params: torch.optim.SGD(params, lr=0.1), steps=100)
        >>> step = backward(problem, solver, Contrastive(0.01, "symmetric"), [torch.tensor(3.0)])
        >>> round(step.value, 3)  # phi_0 = 2, d phi_0 / d omega = 1/2, d phi_0 / d log_lam = -1/2
        4.0
        >>> [round(p.grad.item(), 2) for p in problem.slow.values()]
        [2.0, -2.0]
    """
    many = tasks if isinstance(tasks, list) else [tasks]
    if not many:
        raise ValueError("tasks: there is none to learn; give at least one.")
    real_stencil(rule)  # whether it can be done here
    results = [
        _attempt(problem, solver, solver if nudged is None else nudged, rule, task) for task in many
    ]
    failed = [(i, why) for i, why in enumerate(results) if isinstance(why, str)]
    if len(failed) == len(many):
        raise DivergedError(
            f"tasks: every one diverged, the first because {failed[0][1]}. Lower the inner "
            "learning rate, take fewer inner steps, or lower |beta|: a negative nudge minimises "
            "L_in - |beta| L_out, which can be unbounded below."
        )
    mean = mean_of([x for x in results if not isinstance(x, str)], failed)
    for name, p in problem.slow.items():
        grad = mean.by_theta[name]
        p.grad = grad.clone() if p.grad is None else p.grad.add_(grad)
    return mean


def _attempt(
    problem: Problem, solver: Solver, nudged: Solver, rule: Contrastive, task: PyTree
) -> MetaGradient | str:
    """The meta-gradient of one task, or why there is none."""
    with phases_of(problem, task) as phases:
        first = phases.inner(phases.start)
        phi_0 = phases.run(solver, 0.0, phases.start)
        after = random_state(problem.module)
        meta = meta_gradient(_learner(phases, phi_0, nudged), None, task, rule)
        set_random_state(after)
    if not (math.isfinite(meta.value) and all(map(_is_finite, meta.by_theta.values()))):
        return "its value or gradient is not finite"
    if is_far_above(first, meta.aux["inner"]):
        return f"its inner loss grew from {first:.3g} to {meta.aux['inner']:.3g}"
    return meta


def _is_finite(grad: torch.Tensor) -> bool:
    return bool(torch.isfinite(grad).all())


def _learner(phases: Phases, phi_0: Weights, nudged: Solver) -> Learner:
    """The task as a learner outside JAX: theta is in the module, the free phase has run."""
    return Learner(
        solve=lambda theta, task, beta, start: phi_0,
        inner=lambda phi, theta, task: phases.inner(phi),
        outer=lambda phi, theta, task: phases.outer(phi),
        slope=lambda phi, theta, task, beta: phases.slope(phi, beta),
        nudged=lambda theta, task, beta, start: phases.run(nudged, beta, start),
    )


@contextmanager
def solve_inner(problem: Problem, solver: Solver, task: PyTree) -> Iterator[nn.Module]:
    """Within the block, the module has learned the task: the free phase alone.

    After it, fast weights and buffers are what they were; the generators are where learning left
    them.

    Example:
        >>> from metacontrast.torch import Synapse, descend
        >>> net = Synapse(torch.nn.Linear(1, 1, bias=False))
        >>> loss = lambda net, y: ((net.fast.weight - y) ** 2).sum()
        >>> problem = Problem(net, lambda net, y: loss(net, y) + net.pull(), loss, ["[ol]*"])
        >>> solver = descend(lambda params: torch.optim.SGD(params, lr=0.1), steps=100)
        >>> with solve_inner(problem, solver, net.omega[0].detach() + 2) as module:
        ...     round((module.fast.weight - module.omega[0]).item(), 3)
        1.0
    """
    with phases_of(problem, task) as phases:
        phi_0 = phases.run(solver, 0.0, phases.start)
        load(problem.module, phases.fast, phi_0)
        yield problem.module
