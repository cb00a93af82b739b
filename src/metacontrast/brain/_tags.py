"""What a complex synapse does by itself: tag and consolidate. Every line is elementwise."""

from __future__ import annotations

from typing import Annotated

import jax

from .._must import nudge
from .._synapse import Synapse, broadcast
from .._types import Arrays, Scalar


def tag(
    tags: Synapse,
    phi: Arrays,
    omega: Arrays,
    lam: Arrays,
    sign: Arrays,
    beta: Annotated[Scalar | float, nudge()],
) -> Synapse:
    """Add to its tags, with the broadcast sign of plasticity, what a synapse reads off itself.

        tag_omega_i  <- tag_omega_i + (sign / beta) (-2 lambda_i (phi_i - omega_i))
        tag_lam_i    <- tag_lam_i   + (sign / beta) lambda_i (phi_i - omega_i)^2

    Sign -1 at the end of the free phase and +1 at the end of the nudged one leave the contrastive
    meta-gradient in the tags, as `Synapse.contrast` computes it from both phases.

    Args:
        tags: of omega and of log lambda, trees of phi's structure.
        phi: fast weights.
        omega: where they are pulled to.
        lam: how strongly.
        sign: a number, or a tree like the tags', one sign a synapse.
        beta: the nudge.

    Example:
        >>> tags = tag(Synapse(0.0, 0.0), phi=3.0, omega=1.0, lam=0.5, sign=-1.0, beta=0.1)
        >>> tags = tag(tags, phi=3.1, omega=1.0, lam=0.5, sign=1.0, beta=0.1)
        >>> round(float(tags.omega), 2), round(float(tags.log_lam), 2)
        (-1.0, 2.05)
    """
    for name, tree in (("omega", omega), ("lam", lam)):
        if jax.tree.structure(tree) != jax.tree.structure(phi):  # type: ignore[operator]
            raise ValueError(f"{name}: must be of the structure of `phi`, one number a weight.")
    state = Synapse(
        jax.tree.map(lambda p, o, s: -2 * s * (p - o), phi, omega, lam),
        jax.tree.map(lambda p, o, s: s * (p - o) ** 2, phi, omega, lam),
    )
    signs = broadcast(sign, state)
    return jax.tree.map(lambda old, read, s: old + s / beta * read, tags, state, signs)


def consolidate(theta: Synapse, tags: Synapse, rate: Scalar | float) -> Synapse:
    """theta, moved by `-rate` times its tags.

    Example:
        >>> consolidate(Synapse(1.0, 0.0), Synapse(-1.0, 2.0), rate=0.5)
        Synapse(omega=1.5, log_lam=-1.0)
    """
    return jax.tree.map(lambda slow, change: slow - rate * change, theta, tags)
