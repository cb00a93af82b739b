"""The contrast of phases: the one place where nudged phases are run and compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ._complex import complexify
from ._loss import LinearNudge, Loss, Nudge
from ._solver._base import Solution, Solver, Start, run_solver
from ._stencil import Stencil
from ._tree import norm, or_one, widened
from ._types import PyTree, Scalar
from ._wide import wide_arguments


class Phase(NamedTuple):
    """A nudged phase: the loss that it minimised, what it ended with, its weight in the scheme."""

    loss: Loss
    solution: Solution
    weight: Scalar | complex


def contrast(
    loss: Loss,
    phi_0: PyTree,
    solver: Solver,
    stencil: Stencil,
    nudge: Callable[[Scalar | complex], Nudge],
    *,
    control: bool = False,
    starts: Sequence[Start] | None = None,
) -> tuple[tuple[PyTree, PyTree], list[Phase]]:
    """Run the nudged phases of a stencil, and contrast them by one backward pass.

        d/d(theta, z)  sum_k w_k [ L_in + nudge(b_k) ](phi_k, theta, z)   at fixed phi_k,

    with phi_k the minimiser at nudge b_k, and phi_0 that of the free phase, where the stencil
    uses it.

    Args:
        loss: of the free phase, with the state of the model that it ended with.
        phi_0: where that ended.
        solver: of the nudged phases.
        stencil: nodes and weights.
        nudge: `beta -> Nudge`.
        control: run the free phase once more, from `phi_0` and with this solver, and contrast with
            that in place of `phi_0`; without effect where the stencil does not use it.
        starts: of the phases, in their order: the control's, if there is one, and the nodes'.
            Default: `phi_0` for each, with no memory.

    Returns:
        The derivatives by theta and by z (`float0` for leaves that are not floating), and the
        phases that were run.
    """
    losses = [loss.nudged(nudge(b)) for b in stencil.nodes]
    weights = list(stencil.weights)
    if stencil.free is not None:
        losses, weights = [loss, *losses], [stencil.free, *weights]
    runs = losses if control or stencil.free is None else losses[1:]
    if starts is None:
        starts = [Start(_like(phi_0, each), model=loss.state) for each in runs]
    phases = [
        _phase(solver, each, start, weight)
        for each, start, weight in zip(runs, starts, weights[-len(runs) :], strict=True)
    ]
    losses = [*losses[: len(losses) - len(runs)], *(phase.loss for phase in phases)]
    phis = [phase.solution.phi for phase in phases]
    phis = [phi_0, *phis] if len(runs) < len(losses) else phis

    return contrast_at(losses, weights, phis), phases


def _phase(solver: Solver, loss: Loss, start: Start, weight: Scalar | complex) -> Phase:
    solution = run_solver(solver, loss, start)
    return Phase(loss.with_state(solution.model), solution, weight)


def contrast_at(
    losses: Sequence[Loss], weights: Sequence[Scalar | complex], phis: Sequence[PyTree]
) -> tuple[PyTree, PyTree]:
    """`d/d(theta, z) sum_k w_k L_k(phi_k, theta, z)` at fixed phis, which have been found before.

    All losses are of the same theta and z.
    """
    total: PyTree = None
    for weight, loss, phi in zip(weights, losses, phis, strict=True):
        # Each by itself and multiplied afterwards, in a wide type: a weight of 1/beta would carry
        # what half precision holds out of its range, and the difference would be rounded to it.
        size, grads = _partial_derivatives(weight, loss, phi)
        add = partial(_plus, size)
        total = jax.tree.map(add, grads) if total is None else jax.tree.map(add, grads, total)
    return total


def _partial_derivatives(
    weight: Scalar | complex, loss: Loss, phi: PyTree
) -> tuple[Scalar | complex, tuple[PyTree, PyTree]]:
    """A real number, and the trees by theta and z which times it are the phase's part."""
    turns = jnp.iscomplexobj(weight)
    size = jnp.abs(weight) if turns else weight
    unit = weight / size if turns else 1.0

    def value(theta: PyTree, z: PyTree) -> Scalar:
        return jnp.real(unit * loss.at(theta, z)(phi))

    return size, jax.grad(value, (0, 1), allow_int=True)(*wide_arguments(loss, phi))


def _plus(size: Scalar | complex, g: jax.Array, total: jax.Array | None = None) -> jax.Array:
    if g.dtype == jax.dtypes.float0:
        return g
    part = size * widened(g)
    return part if total is None else total + part


def _like(phi_0: PyTree, loss: Loss) -> PyTree:
    """phi_0, in complex numbers where the nudge is one."""
    is_complex = loss.nudge is not None and jnp.iscomplexobj(loss.nudge.beta)
    return complexify(phi_0) if is_complex else phi_0


def linear_contrast(
    loss: Loss,
    phi_0: PyTree,
    v: PyTree,
    solver: Solver,
    stencil: Stencil,
    *,
    damping: float | None = None,
    control: bool = False,
    starts: Sequence[Start] | None = None,
) -> tuple[tuple[PyTree, PyTree], list[Phase]]:
    """`v' dphi_0/d(theta, z)` for a cotangent `v` of phi_0: the contrast of linear nudges along it.

    The nudge has length one and the contrast is multiplied by `|v|`, so that one beta fits
    cotangents of all sizes. `damping` as of `LinearNudge`, all else as of `contrast`.
    """
    size = norm(v)
    along = jax.tree.map(lambda leaf: (leaf / or_one(size)).astype(leaf.dtype), v)
    keep = damping is not None and not loss.samples  # else each view has a slope of its own
    slope = jax.grad(loss.inner)(phi_0) if keep else None
    nudge = partial(LinearNudge, direction=along, phi_0=phi_0, damping=damping, slope=slope)
    points = stencil.scaled(size)
    return contrast(loss, phi_0, solver, points, nudge, control=control, starts=starts)
