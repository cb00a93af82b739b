"""The contrastive rule for a learner that JAX cannot see into."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from .._contrastive import Contrastive
from .._problem import PyTree
from .._stencil import stencil
from ._numerical import numerical_slope


@dataclass(frozen=True)
class Learner:
    """A learner outside JAX: how it is fitted, and the losses that it is fitted on.

    Args:
        solve: `(theta, task, beta, start) -> phi`, the minimiser of `L = L_in + beta L_out`.
            `start` is None in the free phase and `phi_0` in the nudged ones: warm-start there if
            you can, ignore it otherwise. phi is a tree of arrays.
        inner: `(phi, theta, task) -> number`.
        outer: `(phi, theta, task) -> number`.
        slope: `(phi, theta, task, beta) -> dL/dtheta` at fixed phi, of theta's structure. Default:
            by central differences, which costs two losses (but no fit) a meta-parameter.

    Example: where to pull one number that averages the data.
        >>> learner = Learner(
        ...     solve=lambda theta, task, beta, start: (task + theta + beta) / (2 + beta),
        ...     inner=lambda phi, theta, task: (phi - task) ** 2 + (phi - theta) ** 2,
        ...     outer=lambda phi, theta, task: (phi - 1.0) ** 2,
        ... )
        >>> (value, _), grad = value_and_grad(learner, 1.0, 3.0, Contrastive(beta=0.001))
        >>> float(value), round(float(grad), 2)  # phi_0 = 2, d phi_0 / d theta = 1/2
        (1.0, 1.0)
    """

    solve: Callable[[PyTree, PyTree, float, PyTree], PyTree]
    inner: Callable[[PyTree, PyTree, PyTree], float]
    outer: Callable[[PyTree, PyTree, PyTree], float]
    slope: Callable[[PyTree, PyTree, PyTree, float], PyTree] | None = None

    def loss(self, phi: PyTree, theta: PyTree, task: PyTree, beta: float) -> float:
        """The augmented loss `L_in + beta L_out`."""
        inner = self.inner(phi, theta, task)
        return inner + beta * self.outer(phi, theta, task) if beta else inner

    def by_theta(self, phi: PyTree, theta: PyTree, task: PyTree, beta: float) -> PyTree:
        """`dL/dtheta` at fixed phi: as `slope` says, or by central differences."""
        if self.slope is not None:
            return self.slope(phi, theta, task, beta)
        return numerical_slope(lambda theta: self.loss(phi, theta, task, beta), theta)


def value_and_grad(
    learner: Learner, theta: PyTree, task: PyTree, rule: Contrastive
) -> tuple[tuple[float, dict[str, Any]], PyTree]:
    """`((L_out(phi_0), diagnostics), meta-gradient)` of a learner outside JAX.

    Learn freely, learn again with every nudge of the rule, each time from `phi_0`, and contrast:
    `sum_k w_k dL/dtheta(phi_{b_k}, b_k)`.

    Args:
        learner: what is learned and how.
        theta: meta-parameters, any tree of floating numbers or NumPy arrays.
        task: handed to the learner.
        rule: `Contrastive(beta, scheme, order, control)`; its `nudged`, if given, is a `solve` of
            the same form as the learner's.

    Returns:
        The value, diagnostics (`inner` and `outer` loss of the free phase; of each nudged phase
        `nudged_inner`, `nudged_outer` and its `distance` from `phi_0`), and the meta-gradient.

    Raises:
        ValueError: for beta="auto", the holomorphic scheme and carry=True, which need JAX.
    """
    nodes, weights = nudges(rule)
    phi_0 = learner.solve(theta, task, 0.0, None)
    nudged = rule.nudged or learner.solve
    phis = [
        nudged(theta, task, b, phi_0) if b or rule.control else phi_0  # b = 0 is the free phase
        for b in nodes
    ]
    slopes = [learner.by_theta(phi, theta, task, b) for b, phi in zip(nodes, phis, strict=True)]
    grad = jax.tree.map(lambda *g: sum(w * x for w, x in zip(weights, g, strict=True)), *slopes)
    others = [phi for b, phi in zip(nodes, phis, strict=True) if b]
    value = float(learner.outer(phi_0, theta, task))
    told: dict[str, Any] = {
        "inner": float(learner.inner(phi_0, theta, task)),
        "outer": value,
        "nudged_inner": [float(learner.inner(phi, theta, task)) for phi in others],
        "nudged_outer": [float(learner.outer(phi, theta, task)) for phi in others],
        "distance": [_distance(phi, phi_0) for phi in others],
    }
    return (value, told), grad


def nudges(rule: Contrastive) -> tuple[list[float], list[float]]:
    """Nodes and weights of a rule that a learner outside JAX can follow."""
    if isinstance(rule.beta, str):
        raise ValueError("beta: 'auto' needs a learner in JAX; give a number, try 0.01.")
    if rule.scheme == "holomorphic":
        raise ValueError(
            "scheme: learners outside JAX do not learn in complex numbers; choose forward, of a "
            "higher order if need be, or symmetric."
        )
    if rule.carry:
        raise ValueError("carry: learners outside JAX hand on no state; leave carry=False.")
    return stencil(rule.scheme, rule.order, float(rule.beta))


def _distance(phi: PyTree, phi_0: PyTree) -> float:
    leaves = zip(jax.tree.leaves(phi), jax.tree.leaves(phi_0), strict=True)
    # By the arrays' own arithmetic: they may be PyTorch's, on a device that NumPy cannot read.
    squares = [(a - b) ** 2 for a, b in leaves]
    return math.sqrt(sum(float(x.sum() if hasattr(x, "sum") else x) for x in squares))
