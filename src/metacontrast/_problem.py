"""What is learned: a problem, its tasks, and the augmented loss of one task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import jax

PyTree: TypeAlias = Any
Scalar: TypeAlias = Any  # a jax.Array without axes


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
    """What is learned: fast parameters `phi` given slow meta-parameters `theta` and a task.

    The free phase minimises `inner` over phi; `outer` judges what was learned and is what the
    meta-gradient improves:

        phi_0 = argmin_phi L_in(phi, theta, task),   meta-loss = L_out(phi_0, theta, task).

    Args:
        init: `(theta, task) -> phi`, where learning starts. All leaves floating.
        inner: `(phi, theta, z) -> scalar`, the loss the learner minimises.
        outer: `(phi, theta, z) -> scalar`, the loss on held-out data.
        encode: `(theta, task) -> z`, whatever does not depend on phi: features of a slow body,
            normalised inputs. Computed once a task, and differentiated once. Default: `z = task`.
        sample: `(z, key) -> z`, one random view of `z`, for stochastic learners: a mini-batch, a
            dropout mask, fresh noise. Solvers see views; losses and contrasts are taken on `z`
            itself. Step `t` of *every* phase draws with the same key, because noise that differs
            between phases would be divided by beta. Default: no sampling.

    Example:
        >>> import jax.numpy as jnp
        >>> problem = Problem(
        ...     init=lambda theta, task: theta,
        ...     inner=lambda phi, theta, task: (phi - task) ** 2 + (phi - theta) ** 2,
        ...     outer=lambda phi, theta, task: (phi - 1.0) ** 2,
        ... )
        >>> float(problem.loss(jnp.array(0.0), jnp.array(2.0), beta=0.5)(jnp.array(1.0)))
        2.0
    """

    init: Callable[[PyTree, PyTree], PyTree]
    inner: Callable[[PyTree, PyTree, PyTree], Scalar]
    outer: Callable[[PyTree, PyTree, PyTree], Scalar]
    encode: Callable[[PyTree, PyTree], PyTree] | None = None
    sample: Callable[[PyTree, jax.Array], PyTree] | None = None

    def encoded(self, theta: PyTree, task: PyTree) -> PyTree:
        """`z`, what `inner` and `outer` are handed: the task, encoded where there is an encoder."""
        return task if self.encode is None else self.encode(theta, task)

    def loss(
        self, theta: PyTree, task: PyTree, beta: Any = 0.0, key: jax.Array | None = None
    ) -> Loss:
        """The augmented loss of one task, `L(phi) = L_in + beta L_out`."""
        return Loss(self, theta, self.encoded(theta, task), beta, key)


def is_free(beta: Any) -> bool:
    """Whether `beta` is the number 0, known before anything runs: the nudge of a free phase."""
    return isinstance(beta, int | float) and beta == 0


@dataclass(frozen=True, eq=False)
class Loss:
    """The augmented loss `L(phi) = L_in(phi, theta, z) + beta L_out(phi, theta, z)` of one task.

    This is what a solver minimises. Call it for the loss on all data; call `at` for the loss on
    the random view of one step, which is the same view in every phase.
    """

    problem: Problem
    theta: PyTree
    z: PyTree
    beta: Any = 0.0
    key: jax.Array | None = None

    def __call__(self, phi: PyTree) -> Scalar:
        inner = self.problem.inner(phi, self.theta, self.z)
        # The free phase must not pay for a test loss that it multiplies by zero.
        if is_free(self.beta):
            return inner
        return inner + self.beta * self.problem.outer(phi, self.theta, self.z)

    def at(self, phi: PyTree, step: Any) -> Scalar:
        """The loss on the view drawn for `step`; on all data if the problem draws none."""
        if self.problem.sample is None:
            return self(phi)
        if self.key is None:
            raise ValueError(
                "key: this problem samples (Problem(sample=...)), so its learner is stochastic; "
                "pass a jax.random.key as the argument after the task."
            )
        z = self.problem.sample(self.z, jax.random.fold_in(self.key, step))
        return replace(self, z=z)(phi)

    def outer(self, phi: PyTree) -> Scalar:
        """`L_out` alone, on all data."""
        return self.problem.outer(phi, self.theta, self.z)

    def nudged(self, beta: Any) -> Loss:
        """The same loss at another nudge `beta`, with the same random numbers."""
        return replace(self, beta=beta)
