"""What a meta-gradient says of the phases behind it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from ._holomorphic import gradient
from ._problem import Loss, PyTree

Diagnostics = dict[str, Any]


def measured(loss: Loss, phi: PyTree) -> Diagnostics:
    """Of the free phase: its two losses, and how far from a stationary point it stopped."""
    return {"inner": loss(phi), "outer": loss.outer(phi), "residual": _residual(loss, phi)}


def contrasted(loss: Loss, phi_0: PyTree, nudged: list[tuple[Loss, PyTree]]) -> Diagnostics:
    """`measured`, and of each nudged phase the same and its distance from the free one."""
    return measured(loss, phi_0) | {
        "nudged_inner": [jnp.real(loss(phi)) for _, phi in nudged],
        "nudged_outer": [jnp.real(loss.outer(phi)) for _, phi in nudged],
        "nudged_residual": [_residual(at, phi) for at, phi in nudged],
        "distance": [optax.tree.norm(optax.tree.sub(phi, phi_0)) for _, phi in nudged],
    }


def _residual(loss: Loss, phi: PyTree) -> jax.Array:
    return optax.tree.norm(gradient(loss)(phi))
