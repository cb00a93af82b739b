"""The contrast of phases: one backward pass for a whole stencil, with every phi held fixed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ._problem import Loss, Problem, PyTree


class Encoded(NamedTuple):
    """A task, encoded once: `z`, and how a gradient by z walks back to theta."""

    problem: Problem
    theta: PyTree
    z: PyTree
    pull_back: Callable[[PyTree], tuple[PyTree]]

    def contrast(self, nodes: Sequence[Any], weights: Sequence[Any], phis: list[PyTree]) -> PyTree:
        """`d/dtheta sum_k w_k L(phi_k, theta, b_k)` at fixed phi_k: the meta-gradient.

        Phases that saw the same encoded task share its gradient, so the encoder is walked back
        through only once.
        """

        def combined(theta: PyTree, z: PyTree) -> jax.Array:
            values: list[jax.Array] = [
                w * Loss(self.problem, theta, z, b)(phi)
                for w, b, phi in zip(weights, nodes, phis, strict=True)
            ]
            return jnp.real(jnp.sum(jnp.stack(values)))

        if self.problem.encode is None:  # a task as it is need not be differentiable
            return jax.grad(combined)(self.theta, self.z)
        by_theta, by_z = jax.grad(combined, argnums=(0, 1), allow_int=True)(self.theta, self.z)
        return jax.tree.map(jnp.add, by_theta, self.pull_back(by_z)[0])


def encoded(problem: Problem, theta: PyTree, task: PyTree) -> Encoded:
    """Encode the task."""
    return Encoded(problem, theta, *jax.vjp(lambda theta: problem.encoded(theta, task), theta))
