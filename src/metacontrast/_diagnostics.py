"""What a meta-gradient says of the phases behind it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
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
    """`measured`, and of each nudged phase the same, its distance and the curvature on the way.

    The curvature is `d' (g(phi) - g(phi_0)) / d'd` with `d = phi - phi_0` and `g` the slope of the
    nudged loss; 0 if the phase did not move.
    """
    slopes = [partial(_slope, loss, phi_0, phi_0, phi_0)]
    for at, phi in nudged:
        slopes += [partial(_slope, at, phi_0, phi, end) for end in (phi_0, phi)]
    (residual, _), *found = in_turn(slopes, _traced(phi_0))
    pairs = list(zip(found[::2], found[1::2], strict=True))  # at phi_0, and where the phase stopped
    distances = [optax.tree.norm(_way(phi_0, phi)) for _, phi in nudged]
    return {
        "inner": loss(phi_0),
        "outer": loss.outer(phi_0),
        "residual": residual,
        "nudged_inner": [jnp.real(loss(phi)) for _, phi in nudged],
        "nudged_outer": [jnp.real(loss.outer(phi)) for _, phi in nudged],
        "nudged_residual": [norm for _, (norm, _) in pairs],
        "distance": distances,
        "nudged_curvature": [
            (last - first) / jnp.where(far**2 > 0, far**2, 1.0)
            for ((_, first), (_, last)), far in zip(pairs, distances, strict=True)
        ],
    }


def warn_if_unbounded(nodes: Sequence[Any], told: Diagnostics) -> None:
    """Warn, where the numbers are known, of a negative nudge that has no minimum to settle in."""
    betas = [b for b in nodes if not is_free(b)]
    names = ("nudged_curvature", "distance", "nudged_residual")
    for beta, curvature, way, slope in zip(betas, *(told[name] for name in names), strict=True):
        if _traced((beta, curvature)) or isinstance(beta, complex):
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


def in_turn(functions: Sequence[Callable[[], PyTree]], traced: bool) -> list[PyTree]:
    """What the functions return, all alike, evaluated one after the other.

    A compiler runs what is independent side by side, and then keeps the gradients of all at once,
    each as large as phi. The turns of a loop it does not mix.
    """
    if not traced:  # then each is over before the next begins
        return [function() for function in functions]
    rows = jax.lax.map(lambda i: jax.lax.switch(i, functions), jnp.arange(len(functions)))
    return [jax.tree.map(lambda leaf, i=i: leaf[i], rows) for i in range(len(functions))]


def _slope(loss: Loss, first: PyTree, last: PyTree, at: PyTree) -> tuple[jax.Array, jax.Array]:
    """The norm of the slope at `at`, and its product with the way from `first` to `last`."""
    slope = gradient(loss)(jax.tree.map(lambda a, b: a.astype(b.dtype), at, last))
    return optax.tree.norm(slope), jnp.real(optax.tree.vdot(_way(first, last), slope))


def _traced(tree: PyTree) -> bool:
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


def _way(first: PyTree, last: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: b - a.astype(b.dtype), first, last)


def _residual(loss: Loss, phi: PyTree) -> jax.Array:
    return optax.tree.norm(gradient(loss)(phi))
