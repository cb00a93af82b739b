"""Whether the meta-gradient of a module's slow parameters is to be trusted."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import jax
import numpy as np
import torch

from .._arrays import Numbers
from .._diagnosis import Diagnosis, conclude
from .._directional import Judge, Move, change, cosine
from .._estimator._base import MetaGradient
from .._estimator._contrastive import Contrastive
from .._types import PyTree
from ..external._diagnostics import eps_of
from ..external._rule import ContrastOutside, contrast_from, real_stencil
from ._backward import learner_of
from ._phases import Phases, go_on, phases_of
from ._problem import Problem
from ._solver import Solver
from ._state import RandomState, Weights, gpus, load, random_state, save, set_random_state


def diagnose(
    problem: Problem,
    solver: Solver,
    rule: ContrastOutside,
    task: PyTree,
    nudged: Solver | None = None,
) -> Diagnosis:
    """Say whether the meta-gradient of one task is to be trusted, and what to do if not.

    The same judge as in JAX (see `metacontrast.diagnose`): the meta-loss `L_out(phi_0)` of free
    phases, with slow parameters that are displaced, is differenced along the estimate and across
    it. For why, the estimate is compared with that of half of beta; where learning draws random
    numbers or batches, with that of others; and else, in float32 or below, with that of a copy of
    the module and the task in the next wider type. It takes at most 15 free phases and three
    meta-gradients.

    It leaves no trace: slow and fast parameters, their `.grad`, buffers, modes and the default
    generators are what they were. A generator of a DataLoader's own goes on.

    Args:
        problem: what is learned.
        solver: how, see `descend`.
        rule: `Contrastive(beta, scheme, order, control=...)`.
        task: one task.
        nudged: solver of the nudged phases. Default: `solver`.

    Raises:
        ValueError, TypeError, RuntimeError: as `backward` does.

    Example: a beta that is far too large for an outer loss with many minima.
        >>> from functools import partial
        >>> import metacontrast as mc, metacontrast.torch as mct
        >>> net = torch.nn.ParameterDict({"fast": torch.zeros(2), "slow": torch.tensor([1.0, 0.5])})
        >>> problem = mct.Problem(
        ...     net,
        ...     inner=lambda net, y: (
        ...         ((net["fast"] - y) ** 2).sum() + ((net["fast"] - net["slow"]) ** 2).sum()
        ...     ),
        ...     outer=lambda net, y: (torch.tensor([1.0, 2.0]) * torch.sin(3 * net["fast"])).sum(),
        ...     meta=["slow"],
        ... )
        >>> solver = mct.descend(partial(torch.optim.SGD, lr=0.02), 200)
        >>> ask = lambda beta: diagnose(problem, solver, mc.Contrastive(beta), torch.tensor(0.2))
        >>> ask(0.01).verdict, ask(5.0).verdict
        ('trust', 'do not trust')
    """
    real_stencil(rule)
    module, fast = problem.module, list(problem.fast.values())
    began, before = random_state(gpus(module)), save(module, fast)
    solvers = solver, solver if nudged is None else nudged
    other, wide = None, None
    try:
        with phases_of(problem, task) as phases:
            phases.check([])
            phi_0 = phases.run(solver, 0.0, phases.start)
            draws, after = phases.has_drawn(), phases.random_state()
            meta = _estimate(phases, phi_0, solvers, rule)
            half = _estimate(phases, phi_0, solvers, rule.scaled(0.5))
            move = _meta_loss(phases, solver, before, began)
            d, here, eps = _flat(meta.by_theta), _flat(phases.slow), eps_of(phi_0)
            judge = Judge(move, here, float(meta.value), eps, eps_of(phases.slow))
            look = judge.look(d)
            go_on(after, phases.batches)
        if draws:
            other = _by_itself(problem, task, solvers, rule)
        elif eps > torch.finfo(torch.float64).eps:
            set_random_state(began)
            wide = _wide(problem, task, solvers, rule, eps)
    finally:
        set_random_state(began)
    return conclude(
        rule,
        look,
        flags=meta.aux["flags"].raised(),
        outside=True,
        linear_residual=meta.aux["linear_residual"],
        nudge=change(_flat(half.by_theta), d),
        keys=None if other is None else cosine(other, d),
        precision=None if wide is None else change(wide, d),
    )


def _estimate(
    phases: Phases, phi_0: Weights, solvers: tuple[Solver, Solver], rule: Contrastive
) -> MetaGradient:
    return contrast_from(learner_of(phases, phi_0, solvers[1]), None, phases.task, rule, phi_0)


def _by_itself(
    problem: Problem, task: PyTree, solvers: tuple[Solver, Solver], rule: Contrastive
) -> Numbers:
    """The estimate, with the random numbers that come next."""
    with phases_of(problem, task) as phases:
        phases.check([])
        phi_0 = phases.run(solvers[0], 0.0, phases.start)
        return _flat(_estimate(phases, phi_0, solvers, rule).by_theta)


def _wide(
    problem: Problem, task: PyTree, solvers: tuple[Solver, Solver], rule: Contrastive, eps: float
) -> Numbers | None:
    """The estimate in the next wider type, where all of it can be had there."""
    kind = torch.float64 if eps <= torch.finfo(torch.float32).eps else torch.float32
    widen = lambda x: x.to(kind) if torch.is_tensor(x) and x.is_floating_point() else x
    try:
        widened = replace(problem, module=copy.deepcopy(problem.module).to(kind))
        return _by_itself(widened, jax.tree.map(widen, task), solvers, rule)
    except (RuntimeError, TypeError, ValueError):  # a part of the problem insists on its own
        return None


def _meta_loss(phases: Phases, solver: Solver, before: Weights, began: RandomState) -> Move:
    """Of the free phase with displaced slow parameters, of a task that begins as the first did."""
    problem = phases.problem

    def at(way: Numbers) -> tuple[Numbers, float]:
        with _displaced(phases, way) as held:
            start = phases.start
            if problem.init is not None:  # which may look at what is displaced
                load(problem.module, phases.fast, before)
                set_random_state(began)
                with torch.no_grad():
                    problem.init(problem.module, phases.task)
                start = save(problem.module, phases.fast)
            return held, phases.outer(phases.run(solver, 0.0, start))

    return at


@contextmanager
def _displaced(phases: Phases, way: Numbers) -> Iterator[Numbers]:
    """Slow parameters go a way, and come back to the bit; what their types hold of it."""
    params = _ordered(phases.slow)
    homes = [p.detach().clone() for p in params]
    parts = np.split(way, np.cumsum([p.numel() for p in params])[:-1])
    try:
        with torch.no_grad():
            for p, home, part in zip(params, homes, parts, strict=True):
                move = torch.from_numpy(part).reshape(p.shape)
                p.copy_((home.double().cpu() + move).to(p))
        yield _flat(phases.slow) - _flat(homes)
    finally:
        with torch.no_grad():
            for p, home in zip(params, homes, strict=True):
                p.copy_(home)


def _flat(tree: PyTree) -> Numbers:
    """The numbers of the tree in one row."""
    leaves = [x.detach().double().cpu().numpy().ravel() for x in _ordered(tree)]
    return np.concatenate(leaves)


def _ordered(tree: PyTree) -> list[torch.Tensor]:
    """By name, as `jax.tree` orders what it maps."""
    return [tree[name] for name in sorted(tree)] if isinstance(tree, dict) else list(tree)
