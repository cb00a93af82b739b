"""What a complex synapse does by itself: tag and consolidate. Every line is elementwise."""

from __future__ import annotations

from typing import Any

import jax

from .._problem import PyTree


def tagged(tags: Any, phi: PyTree, omega: PyTree, lam: PyTree, sign: Any, beta: Any) -> Any:
    """Add, with the broadcast sign of plasticity, what a synapse reads off its own state:

        tag_omega_i  <- tag_omega_i + (sign / beta) (-2 lambda_i (phi_i - omega_i))
        tag_lam_i    <- tag_lam_i   + (sign / beta) lambda_i (phi_i - omega_i)^2

    Sign -1 at the end of the free phase and +1 at the end of the nudged one leave the contrastive
    meta-gradient in the tags, as `synapse_contrast` computes it from both phases.

    Args:
        tags: of omega and of log lambda, a pair of trees of phi's structure.
        phi: fast weights.
        omega: where they are pulled to.
        lam: how strongly.
        sign: a number, or a pair of trees like the tags', one sign a synapse.
        beta: the nudge.

    Example:
        >>> tags = tagged((0.0, 0.0), phi=3.0, omega=1.0, lam=0.5, sign=-1.0, beta=0.1)
        >>> tagged(tags, phi=3.1, omega=1.0, lam=0.5, sign=1.0, beta=0.1)
        (-1.0..., 2.05...)
    """
    read = (
        jax.tree.map(lambda p, o, s: -2 * s * (p - o), phi, omega, lam),
        jax.tree.map(lambda p, o, s: s * (p - o) ** 2, phi, omega, lam),
    )
    if not isinstance(sign, tuple):
        return jax.tree.map(lambda tag, g: tag + sign / beta * g, tags, read)
    return jax.tree.map(lambda tag, g, s: tag + s / beta * g, tags, read, sign)


def consolidated(theta: Any, tags: Any, rate: Any) -> Any:
    """theta, the pair (omega, log_lam), moved by `-rate` times its tags.

    Example:
        >>> consolidated((1.0, 0.0), (-1.0, 2.0), rate=0.5)
        (1.5, -1.0)
    """
    return jax.tree.map(lambda slow, tag: slow - rate * tag, theta, tags)
