"""What a meta-gradient says of the phases behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from ._contrast import Phase
from ._loss import Loss
from ._solver._descend import value_and_slope
from ._types import Aux, PyTree


def free_diagnostics(loss: Loss, phi: PyTree) -> Aux:
    """Of the free phase: its two losses, and how far from a stationary point it stopped."""
    residual = optax.tree.norm(value_and_slope(loss, phi)[1])
    return {"inner": loss.inner(phi), "outer": loss.outer(phi), "residual": residual}


def phase_diagnostics(loss: Loss, phi_0: PyTree, phases: Sequence[Phase]) -> Aux:
    """`free_diagnostics`, and of each nudged phase the same, its distance and its curvature.

    The curvature is `d' (g(phi) - g(phi_0)) / d'd` with `d = phi - phi_0` and `g` the slope of the
    nudged loss; 0 if the phase did not move.
    """
    slopes = [partial(_slope, loss, phi_0, phi_0, phi_0)]
    for phase in phases:
        phi = phase.solution.phi
        slopes += [partial(_slope, phase.loss, phi_0, phi, end) for end in (phi_0, phi)]
    (residual, _), *rows = sequentially(slopes)
    pairs = list(zip(rows[::2], rows[1::2], strict=True))  # at phi_0, and where the phase stopped
    distances = [optax.tree.norm(_way(phi_0, phase.solution.phi)) for phase in phases]
    return {
        "inner": loss.inner(phi_0),
        "outer": loss.outer(phi_0),
        "residual": residual,
        "nudged_inner": [jnp.real(loss.inner(phase.solution.phi)) for phase in phases],
        "nudged_outer": [jnp.real(loss.outer(phase.solution.phi)) for phase in phases],
        "nudged_residual": [norm for _, (norm, _) in pairs],
        "distance": distances,
        "nudged_curvature": [
            (last - first) / jnp.where(far**2 > 0, far**2, 1.0)
            for ((_, first), (_, last)), far in zip(pairs, distances, strict=True)
        ],
    }


def sequentially(functions: Sequence[Callable[[], PyTree]]) -> list[PyTree]:
    """What the functions return, all alike, evaluated one after the other.

    A compiler runs what is independent side by side, and then keeps the gradients of all at once,
    each as large as phi. The turns of a loop it does not mix.
    """
    rows = jax.lax.map(lambda i: jax.lax.switch(i, functions), jnp.arange(len(functions)))
    return [jax.tree.map(lambda leaf, i=i: leaf[i], rows) for i in range(len(functions))]


def _slope(
    loss: Loss, first: PyTree, last: PyTree, at: PyTree
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The norm of the slope at `at`, and its product with the way from `first` to `last`."""
    _, slope = value_and_slope(loss, jax.tree.map(lambda a, b: a.astype(b.dtype), at, last))
    along = jnp.real(optax.tree.vdot(_way(first, last), slope))
    # Of one type for all phases: what is bfloat16 in the free one is complex64 in a complex one.
    wide = jnp.promote_types(along.dtype, jnp.float32)
    return optax.tree.norm(slope).astype(wide), along.astype(wide)


def _way(first: PyTree, last: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: b - a.astype(b.dtype), first, last)
