"""What a meta-gradient says of the phases behind it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ._holomorphic import gradient
from ._problem import Loss, PyTree, is_free

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
        "nudged_curvature": [_curvature(at, phi_0, phi) for at, phi in nudged],
    }


def warn_if_unbounded(nodes: Sequence[Any], told: Diagnostics) -> None:
    """Warn, where the numbers are known, of a negative nudge that has no minimum to settle in."""
    betas = [b for b in nodes if not is_free(b)]
    names = ("nudged_curvature", "distance", "nudged_residual")
    for beta, curvature, way, slope in zip(betas, *(told[name] for name in names), strict=True):
        if any(isinstance(x, jax.core.Tracer) for x in (beta, curvature)) or isinstance(
            beta, complex
        ):
            continue
        # By more than round-off: a hundredth of the slope it has reached.
        if beta < 0 and not curvature * way >= -0.01 * slope:
            warnings.warn(
                f"beta: the nudge of {beta:.3g} leads down a slope that grows steeper (curvature "
                f"{curvature:.3g} on the way from phi_0): L_in - |beta| L_out is likely unbounded "
                "below, and the meta-gradient meaningless. Lower |beta| below the ratio of the "
                "curvatures of L_in and L_out, use scheme='forward' with a positive beta, or add "
                "a regulariser to L_in.",
                RuntimeWarning,
                stacklevel=3,
            )


def _curvature(loss: Loss, phi_0: PyTree, phi: PyTree) -> jax.Array:
    """`d' (g(phi) - g(phi_0)) / d'd` with `d = phi - phi_0`; 0 if the phase did not move."""
    slope = gradient(loss)
    start = jax.tree.map(lambda first, last: first.astype(last.dtype), phi_0, phi)
    d, change = optax.tree.sub(phi, start), optax.tree.sub(slope(phi), slope(start))
    size = jnp.real(optax.tree.vdot(d, d))
    return jnp.real(optax.tree.vdot(d, change)) / jnp.where(size > 0, size, 1.0)


def _residual(loss: Loss, phi: PyTree) -> jax.Array:
    return optax.tree.norm(gradient(loss)(phi))
