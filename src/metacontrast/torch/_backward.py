"""The meta-step: learn freely, learn nudged, and leave the contrast in `.grad`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn
from torch.utils.data import DataLoader

from .._estimator._base import MetaGradient
from .._estimator._contrastive import Contrastive
from .._problem import Task
from .._types import PyTree
from ..external import Learner, MeanMetaGradient
from ..external._diagnostics import warn_of
from ..external._parallel import mean_of
from ..external._rule import ContrastOutside, contrast_from, real_stencil
from ..train import DivergedError
from ..train._divergence import is_far_above
from ._batches import Batches
from ._phases import Phases, go_on, phases_of
from ._problem import Problem
from ._solver import Solver
from ._state import Weights, modes_kept


def backward(
    problem: Problem,
    solver: Solver,
    rule: ContrastOutside,
    tasks: PyTree,
    nudged: Solver | None = None,
) -> MeanMetaGradient:
    """Add the mean meta-gradient of `tasks` to `.grad` of the slow parameters.

    The same rule as in JAX: `sum_k w_k dL/dtheta(phi_{b_k}, b_k)`, each nudged phase from `phi_0`.
    As after a loss's `backward()`, any `torch.optim` optimiser takes the outer step.

    Step t of every phase draws the same random numbers (dropout, mini-batches chosen by
    `torch.randperm`, augmentation) from the default generators of torch, NumPy and Python, which
    end where the free phase left them; and the same batches of `Batches`. Fast weights end where
    they were before the call, and so do buffers: batch norm's running statistics are a task's own,
    carried from the free into the nudged phases. What the losses use besides is left alone, its
    `.grad` too, and so is each part's mode. Memory does not depend on the number of steps, but for
    `Batches`.

    A task that diverges (its value or gradient is not finite, or its inner loss ended far above
    where it started) adds nothing to `.grad`, and is counted. One that raised a flag is not left
    out: a `RuntimeWarning`, one a call, says how many did and what to do.

    Args:
        problem: what is learned.
        solver: how, see `descend`.
        rule: `Contrastive(beta, scheme, order, control=...)`.
        tasks: a list of tasks (or a tuple of `Task`s), or one task, which is anything else.
        nudged: solver of the nudged phases. Default: `solver`.

    Returns:
        The mean `value` of the outer loss at `phi_0`, the mean meta-gradient `by_theta` by name,
        the `aux` of each task that was learned (see `external.meta_gradient`) with its flags, which
        `flagged` counts, and `failed`, the number of each task that was not and why.

    Raises:
        TypeError: a rule that is no `Contrastive`; tasks that are a DataLoader or an iterator.
        ValueError: no tasks; a rule that needs JAX; losses that are no numbers, or not the same
            number twice; a slow parameter on which no loss of any task depends.
        RuntimeError: under `torch.inference_mode()`.
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
    real_stencil(rule)  # whether it can be done here
    many = _listed(tasks)
    solvers = solver, solver if nudged is None else nudged
    # The first one is checked before anything is learned, with the others' help if need be.
    others = [partial(_unseen, problem, task) for task in many[1:]]
    results = [_attempt(problem, *solvers, rule, many[0], others)]
    results += [_attempt(problem, *solvers, rule, task) for task in many[1:]]
    failed = [(i, why) for i, why in enumerate(results) if isinstance(why, str)]
    if len(failed) == len(many):
        raise DivergedError(
            f"tasks: every one diverged, the first because {failed[0][1]}. Lower the inner "
            "learning rate, take fewer inner steps, or lower |beta|: a negative nudge minimises "
            "L_in - |beta| L_out, which can be unbounded below."
        )
    mean = mean_of([x for x in results if not isinstance(x, str)], failed)
    for name, p in problem.slow.items():
        grad = mean.by_theta[name].to(p.dtype)
        p.grad = grad.clone() if p.grad is None else p.grad + grad
    warn_of([aux["flags"] for aux in mean.aux])
    return mean


def _listed(tasks: PyTree) -> list[PyTree]:
    """The tasks, of which each may be anything."""
    if isinstance(tasks, DataLoader):
        raise TypeError(
            "tasks: a DataLoader may hold tasks or examples of one; give list(loader) if each of "
            "its items is a task, [Batches(loader)] for one task whose losses take a mini-batch a "
            "step, or [loader] for one whose losses go through all of it each time."
        )
    if isinstance(tasks, Iterator) and not isinstance(tasks, Batches):
        raise TypeError(
            f"tasks: must be a list, or one task, not {type(tasks).__name__}; write list(...)."
        )
    # A tuple is many tasks where it cannot be one: a Task is a tuple too, as is (x, y).
    if type(tasks) is tuple and tasks and all(isinstance(task, Task) for task in tasks):
        tasks = list(tasks)
    many = tasks if isinstance(tasks, list) else [tasks]
    if not many:
        raise ValueError("tasks: there is none to learn; give at least one.")
    return many


def _unseen(problem: Problem, task: PyTree, names: Sequence[str]) -> list[str]:
    with phases_of(problem, task) as phases:
        return phases.unseen(names)


def _attempt(
    problem: Problem,
    solver: Solver,
    nudged: Solver,
    rule: Contrastive,
    task: PyTree,
    others: Sequence[Callable[[Sequence[str]], list[str]]] | None = None,
) -> MetaGradient | str:
    """The meta-gradient of one task, or why there is none."""
    with phases_of(problem, task) as phases:
        if others is not None:
            phases.check(others)
        first = phases.inner(phases.start)
        phi_0 = phases.run(solver, 0.0, phases.start)
        after = phases.random_state()
        meta = contrast_from(learner_of(phases, phi_0, nudged), None, task, rule, phi_0)
        go_on(after, phases.batches)
    if not (math.isfinite(meta.value) and all(map(_is_finite, meta.by_theta.values()))):
        return "its value or gradient is not finite"
    if is_far_above(first, meta.aux["inner"]):
        return f"its inner loss grew from {first:.3g} to {meta.aux['inner']:.3g}"
    return meta


def _is_finite(grad: torch.Tensor) -> bool:
    return bool(torch.isfinite(grad).all())


def learner_of(phases: Phases, phi_0: Weights, nudged: Solver) -> Learner:
    """The task as a learner outside JAX: theta is in the module, the free phase has run."""
    return Learner(
        solve=lambda theta, task, beta, start: phi_0,
        inner=lambda phi, theta, task: phases.inner(phi),
        outer=lambda phi, theta, task: phases.outer(phi),
        slope=lambda phi, theta, task, beta: phases.slope(phi, beta),
        phi_slope=lambda phi, theta, task, beta: phases.phi_slope(phi, beta),
        nudged=lambda theta, task, beta, start: phases.run(nudged, beta, start),
    )


@contextmanager
def solve_inner(problem: Problem, solver: Solver, task: PyTree) -> Iterator[nn.Module]:
    """Within the block, the module has learned the task: the free phase alone.

    It is in the mode that the outer loss is taken in (see `Problem`). After the block, fast
    weights, buffers and modes are what they were; the generators are where learning left them.

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
        after = phases.random_state()
        phases.put(phi_0)
        go_on(after, phases.batches)
        with modes_kept(phases.parts, evaluate=problem.outer_mode == "eval"):
            yield problem.module
