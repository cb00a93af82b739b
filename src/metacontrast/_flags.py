"""What may be wrong with a meta-gradient, in six words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

Flag: TypeAlias = Bool[Array, ""] | bool

# What is left undone, relative to the nudge, from which on a meta-gradient is flagged.
UNCONVERGED = 0.5
FAR = 10.0  # how many times its own size an outer loss may move in a nudged phase
# Phases nearer to each other than so many units of round-off of phi tell little more than those.
APART = 10.0


class Flags(NamedTuple):
    """What may be wrong with the meta-gradient of one task: `aux["flags"]` of every estimator.

    Attributes:
        idle: a nudged phase did not move, though the nudge has a slope.
        unbounded: a nudged phase has no minimum near: the curvature on its way from `phi_0` is not
            positive, or its outer loss ended far from that of the free phase.
        unconverged: what the phases left undone is not small beside the nudge.
        rounded: the phases lie closer together than the arithmetic can tell apart.
        inexact: products by differences of gradients change too much where these are taken over
            half the way.
        nonfinite: the value, the gradient or a diagnostic is NaN or infinite.
    """

    idle: Flag = False
    unbounded: Flag = False
    unconverged: Flag = False
    rounded: Flag = False
    inexact: Flag = False
    nonfinite: Flag = False

    def any(self) -> Flag:
        """Whether one of them is up."""
        return jnp.any(jnp.stack([jnp.asarray(flag) for flag in self]))

    def raised(self) -> list[str]:
        """The names of those that are up, where they are known."""
        known = jax.device_get(tuple(self))
        return [name for name, flag in zip(self._fields, known, strict=True) if flag]


# What to do about each.
REMEDIES = {
    "idle": "a nudged phase did not move, for the nudge is below the solver's tolerance: raise "
    "beta, or lower tol below |beta| times the slope of the outer loss",
    "unbounded": "a nudged phase found no minimum near phi_0: lower |beta|, use nudge='linear' "
    "with damping, scheme='forward' with a positive beta, or add a regulariser to the inner loss",
    "unconverged": "what the phases left undone is not small beside the nudge: take more inner "
    "steps or a better solver, raise beta, use scheme='symmetric' or control=True; or "
    "Trajectory, which needs no convergence",
    "rounded": "the phases lie closer together than the arithmetic can tell apart: raise beta, "
    "or learn in a wider type",
    "inexact": "the gradient bends sharply between the two points of a difference (narrow "
    "arithmetic, kinks within a custom_vjp or a while_loop), or errors grow along the steps: use "
    "product='exact', another h, smooth activations, or fewer steps at smaller rates",
    "nonfinite": "a loss or a gradient is not finite: lower the inner learning rate or |beta|, "
    "clip the inner gradient, or look for logarithms and divisions of 0",
}
# Outside JAX there is neither a linear nudge nor Trajectory, and none is to be advised.
REMEDIES_OUTSIDE = REMEDIES | {
    "unbounded": "a nudged phase found no minimum near phi_0: lower |beta|, use scheme='forward' "
    "with a positive beta, or add a regulariser to the inner loss",
    "unconverged": "what the phases left undone is not small beside the nudge: take more inner "
    "steps, or learn without noise (full batches, no dropout, no batch norm), with a regulariser; "
    "raise beta, or use "
    "scheme='symmetric' or control=True",
}


def unseen(leaves: Sequence[str], instead: str, where: str = "no loss depends on") -> str:
    """What is said of leaves of theta that a rule cannot learn, and what to do `instead`."""
    return (
        f"theta: {where} {', '.join(leaves)}, so that the rule gives 0 there, whatever the true "
        f"gradient is. {instead}"
    )
