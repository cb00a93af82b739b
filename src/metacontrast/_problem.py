"""What is learned: a problem and its tasks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from ._objective import LossFunction, Objective, Plain
from ._types import Key, PyTree


class Data(NamedTuple):
    """Examples `x` (n, ...) with their targets `y` (n, ...)."""

    x: PyTree
    y: PyTree


class Task(NamedTuple):
    """What to learn from (`train`, the support set) and how it is judged (`test`, the query set).

    A convenience: any pytree can be a task. `check` looks inside this one, because the two halves
    of a task that is spelled out can be compared.
    """

    train: Data
    test: Data


@dataclass(frozen=True)
class Problem:
    """What is learned: fast parameters `phi` given slow meta-parameters `theta` and a task `z`.

    The free phase minimises `inner` over phi; `outer` judges what was learned and is what the
    meta-gradient improves:

        phi_0 = argmin_phi L_in(phi, theta, z),   meta-loss = L_out(phi_0, theta, z).

    `z` is whatever a task hands to its losses, any pytree: data, keys, or features that a slow body
    has made of data, since a `meta_loss` has a gradient by `z` too and composes with functions.

    Args:
        init: `(theta, z) -> phi`, where learning starts. All leaves floating.
        inner: `(phi, theta, z) -> scalar`, the loss the learner minimises.
        outer: `(phi, theta, z) -> scalar`, the loss on held-out data.
        sample: `(z, key) -> z`, one random view of `z`, for stochastic learners: a mini-batch, a
            dropout mask, fresh noise. Solvers see views; losses and contrasts are taken on `z`
            itself. Step `t` of *every* phase draws with the same key, because noise that differs
            between phases would be divided by beta. Default: no sampling.

    Example:
        >>> import jax.numpy as jnp, metacontrast as mc
        >>> problem = mc.Problem(
        ...     init=lambda theta, task: theta,
        ...     inner=lambda phi, theta, task: (phi - task) ** 2 + (phi - theta) ** 2,
        ...     outer=lambda phi, theta, task: (phi - 1.0) ** 2,
        ... )
        >>> loss = mc.Loss(problem, theta=jnp.array(0.0), z=jnp.array(2.0))
        >>> float(loss(jnp.array(1.0))), float(loss.outer(jnp.array(3.0)))
        (2.0, 4.0)
    """

    init: Callable[[PyTree, PyTree], PyTree]
    inner: LossFunction
    outer: LossFunction
    sample: Callable[[PyTree, Key], PyTree] | None = None


def objective(loss: LossFunction) -> Objective:
    """The loss itself if it offers its structure, else one that offers nothing but its value."""
    return loss if isinstance(loss, Objective) else Plain(loss)
