"""What a meta-gradient of a learner outside JAX says of the phases behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._arrays import norm, total
from .._flags import APART, FAR, REMEDIES_OUTSIDE, UNCONVERGED, Flags
from .._types import Aux, PyTree
from .._warn import warn
from ._unseen import SIZES, displaced


class Phase(NamedTuple):
    """A phase of the stencil: its weight, its nudge, and where it ended."""

    weight: float
    beta: float
    phi: PyTree


class Ends(NamedTuple):
    """What is asked of the learner where its phases ended.

    Attributes:
        inner: `phi -> L_in`.
        outer: `phi -> L_out`.
        slope: `(phi, beta) -> dL/dphi`, or None where that is not known.
    """

    inner: Callable[[PyTree], float]
    outer: Callable[[PyTree], float]
    slope: Callable[[PyTree, float], PyTree] | None


def diagnose(ends: Ends, phi_0: PyTree, phases: Sequence[Phase], by_theta: PyTree) -> Aux:
    """The losses and the distance of every nudged phase, and the flags they raise, as in the core.

    Where `dL/dphi` is known, `linear_residual` says how far the phases are from having answered the
    nudge, `|sum_k w_k dL/dphi(phi_k, b_k)| / |dL_out/dphi(phi_0)|` over the stencil: 0 if each
    reached its minimum, 1 if none moved. It is the relative residual of the linear system that the
    contrast solves.
    """
    nudged = [phase.phi for phase in phases if phase.beta]
    distances = [norm(difference(phi, phi_0)) for phi in nudged]
    aux: Aux = {
        "inner": float(ends.inner(phi_0)),
        "outer": float(ends.outer(phi_0)),
        "nudged_inner": [float(ends.inner(phi)) for phi in nudged],
        "nudged_outer": [float(ends.outer(phi)) for phi in nudged],
        "distance": distances,
    }
    known = [aux["inner"], *aux["nudged_inner"], *aux["nudged_outer"], *distances]
    # Comparisons are written so that NaN raises the flag.
    moved = all(distance > 0 for distance in distances)
    resolved = APART * eps_of(phi_0) * norm(phi_0)
    apart = all(distance > resolved for distance in distances)
    if ends.slope is not None:
        slopes = _slopes(ends.slope, phi_0, phases)
        aux["linear_residual"] = slopes.residual / (slopes.outer or 1.0)
        known.append(aux["linear_residual"])
        pulled, convex = slopes.outer != 0, slopes.convex
        converged = aux["linear_residual"] <= UNCONVERGED
        moves = [slopes.outer * distance for distance in distances]
    else:
        pulled = moved or not _is_flat(ends.outer, phi_0)
        convex, converged = True, True  # as far as is known
        moves = [1e-6 * abs(aux["inner"])] * len(nudged)
    near = all(
        abs(outer - aux["outer"]) <= FAR * (abs(aux["outer"]) + move)
        for outer, move in zip(aux["nudged_outer"], moves, strict=True)
    )
    finite = lambda x: bool(jnp.all(jnp.isfinite(_host(x))))
    aux["flags"] = Flags(
        idle=pulled and not moved,
        unbounded=pulled and not (near and convex),
        unconverged=pulled and not converged,
        rounded=pulled and moved and not apart,
        nonfinite=not all(map(finite, [aux["outer"], *known, *jax.tree.leaves(by_theta)])),
    )
    return aux


class Slopes(NamedTuple):
    """What the slopes by phi say.

    Attributes:
        residual: the norm of what the phases left of the linear system.
        outer: that of the slope of `L_out` at `phi_0`.
        convex: whether the curvature is positive on the way of each nudged phase.
    """

    residual: float
    outer: float
    convex: bool


def _slopes(
    slope: Callable[[PyTree, float], PyTree], phi_0: PyTree, phases: Sequence[Phase]
) -> Slopes:
    inner = jax.tree.leaves(slope(phi_0, 0.0))
    outer = difference(slope(phi_0, 1.0), inner)
    left: list[PyTree] = []
    convex = True
    for phase in phases:  # one gradient at a time: each is as large as phi
        last = jax.tree.leaves(slope(phase.phi, phase.beta))
        row = [phase.weight * x for x in last]
        left = [a + b for a, b in zip(left, row, strict=True)] if left else row
        way = difference(phase.phi, phi_0)
        far = norm(way) or 1.0
        rises = [
            total((c - a - phase.beta * b) * (x / far))
            for a, b, c, x in zip(inner, outer, last, way, strict=True)
        ]
        # By more than round-off: a hundredth of the slope that the phase has reached.
        convex = convex and (not phase.beta or sum(rises) >= -0.01 * norm(last))
    return Slopes(norm(left), norm(outer), convex)


def _is_flat(outer: Callable[[PyTree], float], phi: PyTree) -> bool:
    """Whether the outer loss has no slope at phi, as far as its values tell."""
    try:
        up, down = (float(outer(displaced(phi, sign * SIZES[0]))) for sign in (1, -1))
    except Exception:  # not defined beside phi: nothing is known
        return False
    return abs(up - down) <= 16 * float(np.finfo(float).eps) * max(abs(up), abs(down))


def difference(a: PyTree, b: PyTree) -> list[PyTree]:
    """`a - b`, leaf by leaf."""
    # By the arrays' own arithmetic: they may be PyTorch's, on a device that NumPy cannot read.
    return [x - y for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)]


def eps_of(phi: PyTree) -> float:
    """That of the coarsest type in phi."""
    types = [str(getattr(x, "dtype", "float64")) for x in jax.tree.leaves(phi)]
    names = {name.rpartition(".")[2] for name in types}  # torch.float32
    return max(
        (float(jnp.finfo(x).eps) for x in names if "float" in x), default=float(np.finfo(float).eps)
    )


def _host(x: PyTree) -> PyTree:
    return x.detach().cpu().double().numpy() if hasattr(x, "detach") else np.asarray(x)


def warn_of(flags: Sequence[Flags]) -> None:
    """Warn once of the flags that tasks raised, with their numbers and what to do."""
    counts = count_flags(flags)
    if not counts:
        return
    parts = [
        f"{name} in {n} of {len(flags)} tasks, {REMEDIES_OUTSIDE[name]}"
        for name, n in counts.items()
    ]
    warn(f"the meta-gradient may be wrong: {'. '.join(parts)}. See aux['flags'].")


def count_flags(flags: Sequence[Flags]) -> dict[str, int]:
    """How many tasks raised each flag, of those that were raised."""
    raised = [name for each in flags for name in each.raised()]
    return {name: raised.count(name) for name in Flags._fields if name in raised}
