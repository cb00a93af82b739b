"""Many tasks side by side, in processes or on a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from .._estimator._base import MetaGradient
from .._estimator._contrastive import Contrastive
from .._optional import optional
from .._types import Aux, PyTree
from ..train import DivergedError
from ._rule import Learner, meta_gradient


class MeanMetaGradient(NamedTuple):
    """A mean over tasks.

    Attributes:
        value: the mean meta-loss of the tasks that were learned.
        by_theta: their mean meta-gradient.
        aux: the diagnostics of each of them, in order, see `meta_gradient`.
        failed: `(number of the task, why)` of those that were not, and are in no mean.
    """

    value: float
    by_theta: PyTree
    aux: list[Aux]
    failed: list[tuple[int, str]]


def mean_meta_gradient(
    learner: Learner, theta: PyTree, tasks: Sequence[PyTree], rule: Contrastive, n_jobs: int = 1
) -> MeanMetaGradient:
    """The mean meta-gradient of `tasks`, each learned in a process of its own choice by joblib.

    A task whose learner raises, or whose value or gradient is not finite, is left out of the means
    and counted. Needs the extra `sklearn`.

    Args:
        learner: must be picklable; joblib's own processes (loky) take lambdas too.
        theta: handed to every task.
        tasks: a list.
        rule: see `meta_gradient`.
        n_jobs: of joblib: processes to use, -1 for all cores. Another backend (threads, Dask, Ray)
            is chosen around the call, `with joblib.parallel_config("dask"): ...`.

    Raises:
        ValueError: no tasks.
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
    if len(tasks) == 0:
        raise ValueError("tasks: there is none to learn; give at least one.")
    joblib = optional("joblib", extra="sklearn")
    attempt = joblib.delayed(_attempt)
    results = joblib.Parallel(n_jobs=n_jobs)(attempt(learner, theta, task, rule) for task in tasks)
    failed = [(i, why) for i, why in enumerate(results) if isinstance(why, str)]
    if len(failed) == len(tasks):
        raise DivergedError(f"tasks: every one failed, the first because {failed[0][1]}.")
    return mean_of([x for x in results if not isinstance(x, str)], failed)


def mean_of(metas: Sequence[MetaGradient], failed: list[tuple[int, str]]) -> MeanMetaGradient:
    """The mean of the meta-gradients of tasks that were learned."""
    value = float(np.mean([meta.value for meta in metas]))
    by_theta = jax.tree.map(lambda *g: sum(g) / len(g), *[meta.by_theta for meta in metas])
    return MeanMetaGradient(value, by_theta, [meta.aux for meta in metas], failed)


def _attempt(
    learner: Learner, theta: PyTree, task: PyTree, rule: Contrastive
) -> MetaGradient | str:
    """The meta-gradient of one task, or why there is none."""
    try:
        meta = meta_gradient(learner, theta, task, rule)
    except Exception as error:  # whatever a foreign learner raises must not end the other tasks
        return f"{type(error).__name__}: {error}"
    if not all(np.all(np.isfinite(x)) for x in (meta.value, *jax.tree.leaves(meta.by_theta))):
        return "its value or gradient is not finite"
    return meta
