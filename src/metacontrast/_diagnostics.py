"""What a meta-gradient says of the phases behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from ._contrast import Phase
from ._flags import Flags
from ._loss import Loss
from ._solver._descend import value_and_slope
from ._tree import norm, or_one, widened
from ._types import Aux, PyTree, Scalar

# What is left undone, relative to the nudge, from which on a meta-gradient is flagged.
UNCONVERGED = 0.5
# Phases nearer to each other than so many units of round-off of phi tell little more than those.
APART = 10.0
STILL = 0.01  # the slope of the inner loss beside the outer one's, at which a phase may stand still
FLAT = 0.01  # what may be left undone, relative to the nudge, where a curvature is 0
FAR = 10.0  # how many times its own size an outer loss may move in a nudged phase


def free_diagnostics(loss: Loss, phi: PyTree) -> Aux:
    """Of the free phase: its two losses, and how far from a stationary point it stopped."""
    residual = norm(value_and_slope(loss, phi)[1])
    return {
        "inner": loss.inner(phi),
        "outer": loss.outer(phi),
        "residual": residual,
    }


def phase_diagnostics(
    loss: Loss, phi_0: PyTree, phases: Sequence[Phase], start: PyTree = None
) -> Aux:
    """`free_diagnostics`, and of each nudged phase the same, its distance and its curvature.

    The curvature is `d' (g(phi) - g(phi_0)) / d'd` with `d = phi - phi_0` and `g` the slope of the
    nudged loss; 0 if the phase did not move. All phases together have a `linear_residual`,

        | sum_k w_k g_k(phi_k) | / | dL_out/dphi(phi_0) |,

    over the nodes of the stencil with their weights, the free phase's among them. To first order in
    beta that is `|H u + v| / |v|`, of the system whose solution `u = dphi/dbeta` the contrast is
    made of: 0 where every phase has converged, or all left undone what the scheme cancels.
    """
    nudges = [phase.loss.nudge for phase in phases]
    damped = any(nudge is not None and nudge.damping is not None for nudge in nudges)
    # The weights of a scheme sum to 0: what is missing is that of phi_0, which damping makes a
    # stationary point.
    free = 0.0 if damped else -sum(phase.weight for phase in phases)
    slopes = [
        partial(_slope, loss, 1.0, phi_0, phi_0, phi_0),
        partial(_slope, loss.outer, 1.0, phi_0, phi_0, phi_0),
    ]
    weights: list[Scalar | float] = [jnp.real(free), 0.0]
    for phase in phases:
        phi, size = phase.solution.phi, jnp.abs(phase.weight)
        turn = phase.weight / size
        slopes.append(partial(_slope, phase.loss, turn, phi_0, phi, phi_0))
        slopes.append(partial(_slope, phase.loss, turn, phi_0, phi, phi))
        weights += [0.0, size]
    rows, undone = sequentially_summed(slopes, weights)
    pairs = zip(rows[2::2], rows[3::2], phases, nudges, strict=True)
    nudged = [(*ends, phase.solution.phi) for *ends, phase, nudge in pairs if nudge is not None]
    distances = [norm(_way(phi_0, phi)) for *_, phi in nudged]
    size = rows[1].norm
    aux: Aux = {
        "inner": loss.inner(phi_0),
        "outer": loss.outer(phi_0),
        "residual": rows[0].norm,
        "nudged_inner": [jnp.real(loss.inner(phi)) for *_, phi in nudged],
        "nudged_outer": [jnp.real(loss.outer(phi)) for *_, phi in nudged],
        "nudged_residual": [last.norm for _, last, _ in nudged],
        "distance": distances,
        "nudged_curvature": [
            (last.along - first.along) / or_one(far) / or_one(far)
            for (first, last, _), far in zip(nudged, distances, strict=True)
        ],
        "linear_residual": norm(undone) / or_one(size),
    }
    met = [phase.solution.curvature for phase in phases if phase.solution.curvature is not None]
    flags = _flags(aux, size, phi_0, met)
    if start is not None:  # of a free phase that went on: it stands still where it should not
        stuck = (norm(_way(start, phi_0)) == 0) & ~(aux["residual"] <= STILL * size)
        flags = flags._replace(idle=flags.idle | stuck)
    return aux | {"flags": flags}


def _flags(aux: Aux, size: Scalar, phi_0: PyTree, met: Sequence[Scalar]) -> Flags:
    """What the aux of nudged phases tells, where the outer loss has a slope of this `size`.

    Those of `met` are the smallest curvatures that their solvers met, where these know them. Each
    comparison is one that NaN fails.
    """
    eps = max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(phi_0))
    resolved = APART * eps * norm(phi_0)
    moved = apart = bounded = jnp.array(True)
    names = ("distance", "nudged_curvature", "nudged_residual", "nudged_outer")
    for far, curvature, residual, outer in zip(*(aux[name] for name in names), strict=True):
        moved &= far > 0
        apart &= far > resolved
        # By more than round-off: a hundredth of the slope that the phase has reached.
        bounded &= curvature * far >= -0.01 * residual
        bounded &= jnp.abs(outer - aux["outer"]) <= FAR * (jnp.abs(aux["outer"]) + size * far)
    for curvature in met:  # along one that is 0 there must be nothing left to do
        bounded &= (curvature > 0) | ((curvature == 0) & (aux["linear_residual"] <= FLAT))
    pulled = ~(size == 0)  # else nothing is to come through phi
    return Flags(
        idle=pulled & ~moved,
        unbounded=pulled & ~bounded,
        unconverged=pulled & ~(aux["linear_residual"] <= UNCONVERGED),
        rounded=moved & ~apart,
    )


class Row(NamedTuple):
    """Of one slope: its norm, and its product with the way of a phase."""

    norm: Float[Array, ""]
    along: Float[Array, ""]


def sequentially_summed(
    functions: Sequence[Callable[[], tuple[Row, PyTree]]], weights: Sequence[Scalar | float]
) -> tuple[list[Row], PyTree]:
    """The rows, and the weighted sum of the trees, that functions give one after the other.

    A compiler runs what is independent side by side, and then keeps the gradients of all at once,
    each as large as phi. The turns of a loop it does not mix.
    """

    def turn(total: PyTree, at: tuple[Array, Array]) -> tuple[PyTree, Row]:
        i, weight = at
        row, tree = jax.lax.switch(i, functions)
        return jax.tree.map(lambda s, x: s + weight.astype(s.dtype) * x, total, tree), row

    _, shapes = jax.eval_shape(functions[0])
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    turns = jnp.arange(len(functions)), jnp.stack([jnp.asarray(w) for w in weights])
    total, rows = jax.lax.scan(turn, zeros, turns)
    return [Row(*(leaf[i] for leaf in rows)) for i in range(len(functions))], total


def _slope(
    value: Callable[[PyTree], Scalar],
    turn: Scalar | complex,
    first: PyTree,
    last: PyTree,
    at: PyTree,
) -> tuple[Row, PyTree]:
    """Of the slope at `at`, on the way from `first` to `last`; and the slope times `turn`, real."""
    _, slope = value_and_slope(value, jax.tree.map(lambda a, b: a.astype(b.dtype), at, last))
    # Of one type for all phases: what is bfloat16 in the free one is complex64 in a complex one.
    slope = jax.tree.map(widened, slope)
    along = jnp.real(optax.tree.vdot(_way(first, last), slope))
    row = Row(norm(slope), along)
    return row, jax.tree.map(lambda g: jnp.real(turn * g).astype(jnp.real(g).dtype), slope)


def _way(first: PyTree, last: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: widened(b) - a.astype(b.dtype), first, last)
