"""The meta-step: learn freely, learn nudged, and leave the contrast in `.grad`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from .._contrastive import Contrastive
from ..external import Learner, MetaGradient, value_and_grad
from ..external._rule import nudges
from ..train import DivergedError
from ..train._meta_step import grew
from ._phases import Phases, begun
from ._problem import Problem
from ._solve import Solver
from ._state import draw_from, load, random_state


def backward(problem: Problem, solve: Solver, rule: Contrastive, tasks: Any) -> MetaGradient:
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
        solve: how, see `descend`.
        rule: `Contrastive(beta, scheme, order, control)`; its `nudged`, if given, is another solver
            of the same form.
        tasks: a list of tasks, or one task, which is anything but a list.

    Returns:
        The mean `value` of the outer loss at `phi_0`, the mean meta-gradient `grad` by name, the
        diagnostics `told` of each task learned (see `external.value_and_grad`), and `failed`, the
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
        >>> solve = descend(lambda params: torch.optim.SGD(params, lr=0.1), steps=100)
        >>> step = backward(problem, solve, Contrastive(0.01, "symmetric"), [torch.tensor(3.0)])
        >>> round(step.value, 3)  # phi_0 = 2, d phi_0 / d omega = 1/2, d phi_0 / d log_lam = -1/2
        4.0
        >>> [round(p.grad.item(), 2) for p in problem.slow.values()]
        [2.0, -2.0]
    """
    many = tasks if isinstance(tasks, list) else [tasks]
    if not many:
        raise ValueError("tasks: there is none to learn; give at least one.")
    nudges(rule)  # whether it can be done here
    found = [_attempt(problem, solve, rule, task) for task in many]
    failed = [(i, why) for i, why in enumerate(found) if isinstance(why, str)]
    if len(failed) == len(many):
        raise DivergedError(
            f"tasks: every one diverged, the first because {failed[0][1]}. Lower the inner "
            "learning rate, take fewer inner steps, or lower |beta|: a negative nudge minimises "
            "L_in - |beta| L_out, which can be unbounded below."
        )
    values, told, grads = zip(*(x for x in found if not isinstance(x, str)), strict=True)
    mean = {name: sum(grad[name] for grad in grads) / len(grads) for name in problem.slow}
    for name, p in problem.slow.items():
        p.grad = mean[name].clone() if p.grad is None else p.grad.add_(mean[name])
    return MetaGradient(float(np.mean(values)), mean, list(told), failed)


def _attempt(problem: Problem, solve: Solver, rule: Contrastive, task: Any) -> Any:
    """`(value, diagnostics, gradient)`, or why there are none."""
    with begun(problem, task) as phases:
        first = phases.measure("inner", phases.start)
        phi_0 = phases.run(solve, 0.0, phases.start)
        after = random_state(problem.module)
        if rule.nudged is not None:
            rule = replace(rule, nudged=_learner(phases, rule.nudged, phi_0).solve)
        (value, told), grad = value_and_grad(_learner(phases, solve, phi_0), None, task, rule)
        draw_from(after)
    if not (math.isfinite(value) and all(bool(torch.isfinite(g).all()) for g in grad.values())):
        return "its value or gradient is not finite"
    if grew(first, told["inner"]):
        return f"its inner loss grew from {first:.3g} to {told['inner']:.3g}"
    return value, told, grad


def _learner(phases: Phases, solve: Solver, phi_0: Any) -> Learner:
    """The task as a learner outside JAX: theta is in the module, the free phase has run."""
    return Learner(
        solve=lambda theta, task, beta, at: phi_0 if at is None else phases.run(solve, beta, at),
        inner=lambda phi, theta, task: phases.measure("inner", phi),
        outer=lambda phi, theta, task: phases.measure("outer", phi),
        slope=lambda phi, theta, task, beta: phases.slope(phi, beta),
    )


@contextmanager
def learned(problem: Problem, solve: Solver, task: Any) -> Iterator[Any]:
    """Within the block, the module has learned the task: the free phase alone.

    After it, fast weights and buffers are what they were; the generators are where learning left
    them.

    Example:
        >>> from metacontrast.torch import Synapse, descend
        >>> net = Synapse(torch.nn.Linear(1, 1, bias=False))
        >>> loss = lambda net, y: ((net.fast.weight - y) ** 2).sum()
        >>> problem = Problem(net, lambda net, y: loss(net, y) + net.pull(), loss, ["[ol]*"])
        >>> solve = descend(lambda params: torch.optim.SGD(params, lr=0.1), steps=100)
        >>> with learned(problem, solve, net.omega[0].detach() + 2) as module:
        ...     round((module.fast.weight - module.omega[0]).item(), 3)
        1.0
    """
    with begun(problem, task) as phases:
        phi_0 = phases.run(solve, 0.0, phases.start)
        load(problem.module, phases.fast, phi_0)
        yield problem.module
