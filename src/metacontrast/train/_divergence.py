"""Learning that diverged: how it is noticed, and how a run ends that cannot go on."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from .._types import PyTree

# Why a meta-step cannot be followed by another.
NONE, TASKS, THETA = range(3)


class DivergedError(ArithmeticError):
    """Meta-training cannot go on: all tasks of a meta-step diverged, or its update of theta did."""


def is_finite(tree: PyTree) -> Bool[Array, ""]:
    """Whether all numbers in the tree are."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def is_far_above(first: Array | float, last: Array | float) -> Bool[Array, ""] | bool:
    """Whether a loss ended far above where it started: divergence that is still finite."""
    return jnp.asarray(last) > first + 10 * (jnp.abs(jnp.asarray(first)) + 1e-6)


def trouble(learned: jax.Array, theta: PyTree) -> jax.Array:
    """Of a meta-step in which `learned` tasks did not diverge, and which led to theta."""
    return jnp.where(learned == 0, TASKS, jnp.where(is_finite(theta), NONE, THETA))


def check_trouble(troubles: np.ndarray, t: int) -> None:
    """Raise a `DivergedError` for the first of the meta-steps after `t` that was in trouble."""
    if (troubles == NONE).all():
        return
    i = int(np.argmax(troubles != NONE))
    if troubles[i] == TASKS:
        raise DivergedError(
            f"meta-step {t + i + 1}: every task diverged. Lower the inner learning rate, take "
            "fewer inner steps, or clip the inner gradient (optax.clip_by_global_norm). Or lower "
            "|beta|: a negative nudge, which scheme='symmetric' has, minimises L_in - |beta| L_out "
            "and can make it unbounded below. With Implicit('cg'), add damping: it gives NaN where "
            "the Hessian has negative curvature."
        )
    raise DivergedError(
        f"meta-step {t + i + 1}: theta is not finite after the update. Lower the learning rate of "
        "`optimizer`, or clip in it (optax.chain(optax.clip_by_global_norm(1.0), ...))."
    )
