"""Partial derivatives by theta from values of the loss, for a few meta-parameters."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np

from .._types import PyTree


def numerical_slope(loss: Callable[[PyTree], float], theta: PyTree) -> PyTree:
    """`dloss/dtheta` by central differences in float64.

    The step `eps^(1/3) max(1, |theta_i|)` balances truncation, `h^2 loss'''/6`, against round-off,
    `eps |loss| / h`: both are about `4e-11` of the loss' scale. The rule divides that by beta.

    Example:
        >>> slope = numerical_slope(lambda theta: float(np.sum(theta**3)), np.array([1.0, 2.0]))
        >>> slope.round(6).tolist()
        [3.0, 12.0]
    """
    leaves, structure = jax.tree.flatten(theta)
    leaves = [np.array(leaf, np.float64) for leaf in leaves]
    slopes = [np.zeros_like(leaf) for leaf in leaves]
    for leaf, slope in zip(leaves, slopes, strict=True):
        for i in np.ndindex(leaf.shape):
            here = float(leaf[i])
            h = np.finfo(float).eps ** (1 / 3) * max(1.0, abs(here))
            values = []
            for there in (here + h, here - h):
                leaf[i] = there
                # Copies: the loss may keep what it is handed.
                values.append(loss(jax.tree.unflatten(structure, [np.array(x) for x in leaves])))
            leaf[i] = here
            # By the step that was taken, which round-off makes another than h.
            slope[i] = (values[0] - values[1]) / ((here + h) - (here - h))
    return jax.tree.unflatten(structure, slopes)
