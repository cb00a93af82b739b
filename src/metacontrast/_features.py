"""Features of a slow body, by composition: `loss(*features(theta, task))`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax

from ._estimator._base import MetaGradient
from ._types import PyTree

# `(theta, task) -> (theta_in, z)`: what the problem's functions are called with.
Features: TypeAlias = Callable[[PyTree, PyTree], tuple[PyTree, PyTree]]


def problem_inputs(features: Features | None, theta: PyTree, task: PyTree) -> tuple[PyTree, PyTree]:
    """The theta and the z of the problem; without features, those of the loop."""
    return (theta, task) if features is None else features(theta, task)


def vjp_features(
    features: Features | None, theta: PyTree, task: PyTree
) -> tuple[tuple[PyTree, PyTree], Callable[[MetaGradient], PyTree]]:
    """`problem_inputs`, and what pulls a meta-gradient at them back to one by theta.

        d loss(features(theta)) / dtheta = (d features / dtheta)' (by_theta, by_z)

    The features are computed once, and gone back through once. Leaves of z that are not floating
    have gradients of type `float0`, which is what `jax.vjp` takes for them.
    """
    if features is None:
        return (theta, task), lambda meta: meta.by_theta
    inputs, pull_back = jax.vjp(lambda theta: features(theta, task), theta)
    return inputs, lambda meta: pull_back((meta.by_theta, meta.by_z))[0]
