"""Many tasks side by side, in processes or on a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import jax
import numpy as np

from .._estimator._base import MetaGradient
from .._estimator._contrastive import Contrastive
from .._must import advice
from .._optional import optional
from .._types import Aux, Learned, PyTree
from ..train import DivergedError
from ._diagnostics import count_flags, warn_of
from ._rule import ContrastOutside, Learner, contrast_from, free_phase, real_stencil
from ._unseen import refuse_unseen


class MeanMetaGradient(NamedTuple):
    """A mean over tasks.

    Attributes:
        value: the mean meta-loss of the tasks that were learned.
        by_theta: their mean meta-gradient.
        aux: the diagnostics of each of them, in order, see `meta_gradient`.
        failed: `(number of the task, why)` of those that were not, and are in no mean.
        flagged: of the tasks that were learned, how many raised each flag, where any did.
    """

    value: float
    by_theta: PyTree
    aux: list[Aux]
    failed: list[tuple[int, str]]

    @property
    def flagged(self) -> dict[str, int]:
        """`{"idle": 3}`: three of the tasks that were learned raised the flag `idle`."""
        return count_flags([aux["flags"] for aux in self.aux])


def mean_meta_gradient(
    learner: Learner,
    theta: Learned,
    tasks: Annotated[Sequence[PyTree], advice("write list(...)")],
    rule: ContrastOutside,
    n_jobs: int = 1,
) -> MeanMetaGradient:
    """The mean meta-gradient of `tasks`, each learned in a process of its own choice by joblib.

    A task whose learner raises, or whose value or gradient is not finite, is left out of the means
    and counted. Flagged ones are in the means, and a `RuntimeWarning` tells of them. Needs the
    extra `sklearn`.

    Args:
        learner: must be picklable; joblib's own processes (loky) take lambdas too.
        theta: handed to every task.
        tasks: a list.
        rule: see `meta_gradient`.
        n_jobs: of joblib: processes to use, -1 for all cores. Another backend (threads, Dask, Ray)
            is chosen around the call, `with joblib.parallel_config("dask"): ...`.

    Raises:
        TypeError: a rule that is no `Contrastive`; tasks that are no list.
        ValueError: no tasks; a rule that needs JAX; a leaf of theta on which no task's losses
            depend.
        DivergedError: every task failed; says why the first did.

    Example:
        >>> learner = Learner(
        ...     solve=lambda theta, task, beta, start: (task + theta) / (2 + beta),
        ...     inner=lambda phi, theta, task: (phi - task) ** 2 + (phi - theta) ** 2,
        ...     outer=lambda phi, theta, task: phi**2,
        ... )
        >>> tasks = [3.0, 1.0, float("nan")]
        >>> mean = mean_meta_gradient(learner, 1.0, tasks, Contrastive(beta=0.001))
        >>> mean.value, round(float(mean.by_theta), 2), mean.failed
        (2.5, 1.5, [(2, 'its value or gradient is not finite')])
    """
    real_stencil(rule)
    if len(tasks) == 0:
        raise ValueError("tasks: there is none to learn; give at least one.")
    joblib = optional("joblib", extra="sklearn")
    attempt = joblib.delayed(_attempt)
    results = joblib.Parallel(n_jobs=n_jobs)(attempt(learner, theta, task, rule) for task in tasks)
    failed = [(i, why) for i, (why, _) in enumerate(results) if isinstance(why, str)]
    if len(failed) == len(tasks):
        raise DivergedError(f"tasks: every one failed, the first because {failed[0][1]}.")
    learned = [(meta, names) for meta, names in results if not isinstance(meta, str)]
    # A leaf may belong to some of the tasks alone.
    refuse_unseen([x for x in learned[0][1] if all(x in names for _, names in learned)])
    mean = mean_of([meta for meta, _ in learned], failed)
    warn_of([aux["flags"] for aux in mean.aux])
    return mean


def mean_of(metas: Sequence[MetaGradient], failed: list[tuple[int, str]]) -> MeanMetaGradient:
    """The mean of the meta-gradients of tasks that were learned."""
    value = float(np.mean([meta.value for meta in metas]))
    by_theta = jax.tree.map(lambda *g: sum(g) / len(g), *[meta.by_theta for meta in metas])
    return MeanMetaGradient(value, by_theta, [meta.aux for meta in metas], failed)


def _attempt(
    learner: Learner, theta: PyTree, task: PyTree, rule: Contrastive
) -> tuple[MetaGradient | str, list[str]]:
    """The meta-gradient of one task, or why there is none; and the leaves no loss depends on."""
    try:
        phi_0, unseen = free_phase(learner, theta, task)
        meta = contrast_from(learner, theta, task, rule, phi_0)
    except Exception as error:  # whatever a foreign learner raises must not end the other tasks
        return f"{type(error).__name__}: {error}", []
    if not all(np.all(np.isfinite(x)) for x in (meta.value, *jax.tree.leaves(meta.by_theta))):
        return "its value or gradient is not finite", []
    return meta, unseen
