"""Many tasks side by side, in processes or on a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from .._contrastive import Contrastive
from .._problem import PyTree
from ..train import DivergedError
from .._optional import optional
from ._rule import Learner, value_and_grad


class MetaGradient(NamedTuple):
    """A mean over tasks.

    Attributes:
        value: the mean meta-loss of the tasks that were learned.
        grad: their mean meta-gradient.
        told: the diagnostics of each of them, in order.
        failed: `(number of the task, why)` of those that were not, and are in no mean.
    """

    value: float
    grad: PyTree
    told: list[dict[str, Any]]
    failed: list[tuple[int, str]]


def meta_gradient(
    learner: Learner, theta: PyTree, tasks: Sequence[PyTree], rule: Contrastive, n_jobs: int = 1
) -> MetaGradient:
    """The mean meta-gradient of `tasks`, each learned in a process of its own choice by joblib.

    A task whose learner raises, or whose value or gradient is not finite, is left out of the means
    and counted. Needs the extra `sklearn`.

    Args:
        learner: must be picklable; joblib's own processes (loky) take lambdas too.
        theta: handed to every task.
        tasks: a list.
        rule: see `value_and_grad`.
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
        >>> mean = meta_gradient(learner, 1.0, [3.0, 1.0, float("nan")], Contrastive(beta=0.001))
        >>> mean.value, round(float(mean.grad), 2), mean.failed
        (2.5, 1.5, [(2, 'its value or gradient is not finite')])
    """
    if len(tasks) == 0:
        raise ValueError("tasks: there is none to learn; give at least one.")
    joblib = optional("joblib", extra="sklearn")
    one = joblib.delayed(_attempt)
    found = joblib.Parallel(n_jobs=n_jobs)(one(learner, theta, task, rule) for task in tasks)
    failed = [(i, why) for i, why in enumerate(found) if isinstance(why, str)]
    if len(failed) == len(tasks):
        raise DivergedError(f"tasks: every one failed, the first because {failed[0][1]}.")
    values, told, grads = zip(*(x for x in found if not isinstance(x, str)), strict=True)
    grad = jax.tree.map(lambda *g: np.mean(np.stack(g), axis=0), *grads)
    return MetaGradient(float(np.mean(values)), grad, list(told), failed)


def _attempt(learner: Learner, theta: PyTree, task: PyTree, rule: Contrastive) -> Any:
    """`(value, diagnostics, gradient)`, or why there are none."""
    try:
        (value, told), grad = value_and_grad(learner, theta, task, rule)
    except Exception as error:  # whatever a foreign learner raises must not end the other tasks
        return f"{type(error).__name__}: {error}"
    if not all(np.all(np.isfinite(x)) for x in (value, *jax.tree.leaves(grad))):
        return "its value or gradient is not finite"
    return value, told, grad
