"""What a meta-gradient says of the phases behind it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import optax

from ._contrast import Phase
from ._flags import APART, FAR, UNCONVERGED, Flag, Flags
from ._linear import coarsest
from ._loss import Loss, Nudge
from ._slopes import Place, Row, Turn, sequential_slopes, turn_of, way
from ._solver._descend import value_and_slope
from ._tree import norm, or_one, widened
from ._types import Aux, PyTree, Scalar
from ._wide import is_wide

STILL = 0.01  # the slope of the inner loss beside the outer one's, at which a phase may stand still
FLAT = 0.01  # what may be left undone, relative to the nudge, where a curvature is 0


def free_diagnostics(loss: Loss, phi: PyTree) -> Aux:
    """Of the free phase: its two losses, and how far from a stationary point it stopped."""
    inner, slope = value_and_slope(loss, phi)
    return {"inner": inner, "outer": loss.outer(phi), "residual": norm(slope)}


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
    places = [Place(phi_0, loss.state)]
    places += [Place(phase.solution.phi, phase.loss.state) for phase in phases]
    nudges = [phase.loss.nudge for phase in phases]
    linear = next((n.with_cache(loss) for n in nudges if n is not None and not n.replays), None)
    damped = linear is not None and linear.damping is not None
    # The weights of a scheme sum to 0: what is missing is that of phi_0, which damping makes a
    # stationary point.
    free = 0.0 if damped else jnp.real(-sum(phase.weight for phase in phases))
    turns = [Turn(0, weight=free), Turn(0, inner=0.0, outer=1.0)]
    turns += [
        turn_of(k, phase.weight, n)
        for k, (phase, n) in enumerate(zip(phases, nudges, strict=True), 1)
    ]
    rows, undone = sequential_slopes(loss, places, turns, linear)
    at_inner, at_outer = rows[:2]
    aux: Aux = {
        "inner": at_inner.inner,
        "outer": at_outer.outer,
        "residual": at_inner.norm,
        **_of_nudged(loss, places, rows, nudges, linear),
        "linear_residual": norm(undone) / or_one(at_outer.norm),
    }
    met = [phase.solution.curvature for phase in phases if phase.solution.curvature is not None]
    flags = _flags(aux, at_outer.norm, loss, phi_0, met)
    if any(phase.solution.converged is not None for phase in phases):
        sizes = [jnp.abs(turn.weight) * row.norm for turn, row in zip(turns, rows, strict=True)]
        lucky = _is_beyond_the_nudge(jnp.sum(jnp.stack(sizes)), at_outer.norm)
        flags = flags._replace(unconverged=flags.unconverged | lucky)
    if start is not None:  # of a free phase that went on: it stands still where it should not
        stuck = (norm(way(start, phi_0)) == 0) & ~(aux["residual"] <= STILL * at_outer.norm)
        flags = flags._replace(idle=flags.idle | stuck)
    return aux | {"flags": flags}


def _is_beyond_the_nudge(undone: Scalar, size: Scalar) -> Flag:
    """Whether phases that stopped at a tolerance left more undone than is small beside the nudge.

    Each by itself: where a tolerance has stopped them, it is by chance that they cancel.
    """
    return ~(size == 0) & ~(undone <= UNCONVERGED * size)


def _of_nudged(
    loss: Loss,
    places: Sequence[Place],
    rows: Sequence[Row],
    nudges: Sequence[Nudge | None],
    linear: Nudge | None,
) -> Aux:
    """Of each nudged phase, and no control, its losses, residual, distance and curvature."""
    told: Aux = {f"nudged_{name}": [] for name in ("inner", "outer", "residual", "curvature")}
    told["distance"] = []
    for k, nudge in enumerate(nudges, 1):
        if nudge is None:
            continue
        at_inner, at_outer, row = *rows[:2], rows[k + 1]
        # Of the slope of the phase's own loss at phi_0, on its way.
        if linear is None:
            start = at_inner.along[k] + nudge.beta * at_outer.along[k]
        else:
            own = linear.with_beta(nudge.beta)
            start = at_inner.along[k] + _along_start(own, loss, places[0].phi, places[k].phi)
        far = norm(way(places[0].phi, places[k].phi))
        told["nudged_inner"].append(row.inner)
        told["nudged_outer"].append(row.outer)
        told["nudged_residual"].append(row.norm)
        told["distance"].append(far)
        curvature = jnp.real(row.along[k] - start) / or_one(far) / or_one(far)
        told["nudged_curvature"].append(curvature)
    return told


def _along_start(nudge: Nudge, loss: Loss, phi_0: PyTree, phi: PyTree) -> Scalar:
    """Of the slope of a nudge at phi_0, on the way to phi."""
    first = jax.tree.map(lambda a, b: a.astype(b.dtype), phi_0, phi)
    slope = value_and_slope(partial(nudge, loss), first)[1]
    return optax.tree.vdot(way(phi_0, phi), jax.tree.map(widened, slope))


def _flags(aux: Aux, size: Scalar, loss: Loss, phi_0: PyTree, met: Sequence[Scalar]) -> Flags:
    """What the aux of nudged phases tells, where the outer loss has a slope of this `size`.

    Those of `met` are the smallest curvatures that their solvers met, where these know them. Each
    comparison is one that NaN fails.
    """
    resolved = APART * coarsest(phi_0) * norm(phi_0)
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
        rounded=moved & ~(apart & is_wide(loss, phi_0)),
    )
