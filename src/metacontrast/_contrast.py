"""The contrast of phases: the one place where nudged phases are run and compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ._complex import complexify
from ._loss import LinearNudge, Loss, Nudge
from ._natural_beta import beta_along, natural_beta
from ._problem import InverseCurvature
from ._solver._base import Solution, Solver, Start, Tangent, run_solver
from ._stencil import Scheme, Stencil, order_of, stencil
from ._tree import norm, or_one, widened
from ._types import Arrays, PyTree, Scalar
from ._wide import wide_arguments


class Phase(NamedTuple):
    """A nudged phase: the loss that it minimised, what it ended with, its weight in the scheme."""

    loss: Loss
    solution: Solution
    weight: Scalar | complex


def contrast(
    loss: Loss,
    phi_0: Arrays,
    solver: Solver,
    stencil: Stencil,
    nudge: Callable[[Scalar | complex], Nudge],
    *,
    control: bool = False,
    starts: Sequence[Start] | None = None,
    inverse: InverseCurvature | None = None,
    side_by_side: bool = False,
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
        inverse: of the curvature at `phi_0`, if the free phase's solver has approximated it.
        side_by_side: run the nodes' phases in one batch, rather than one after the other.

    Returns:
        The derivatives by theta and by z (`float0` for leaves that are not floating), and the
        phases that were run.
    """
    tangent = _tangent(loss, phi_0, solver, nudge, starts, inverse)
    if tangent is not None:
        return contrast_along(loss, phi_0, tangent, stencil, nudge)
    return _contrast_of_runs(loss, phi_0, solver, stencil, nudge, control, starts, side_by_side)


def _tangent(
    loss: Loss,
    phi_0: PyTree,
    solver: Solver,
    nudge: Callable[[Scalar | complex], Nudge],
    starts: Sequence[Start] | None,
    inverse: InverseCurvature | None,
) -> Tangent | None:
    memory = None if starts is None else starts[0].memory
    return solver.tangent(loss.nudged(nudge(1.0)), phi_0, memory, inverse)


def _contrast_of_runs(
    loss: Loss,
    phi_0: PyTree,
    solver: Solver,
    stencil: Stencil,
    nudge: Callable[[Scalar | complex], Nudge],
    control: bool,
    starts: Sequence[Start] | None,
    side_by_side: bool,
) -> tuple[tuple[PyTree, PyTree], list[Phase]]:
    """The contrast of phases that are learned."""
    runs = _nudged(loss, stencil, nudge)
    free, first = stencil.free, 0
    if control and free is not None:
        runs, free, first = [(loss, free), *runs], None, 1
    if starts is None:
        starts = [Start(_like(phi_0, each), model=loss.state) for each, _ in runs]
    # Of those one after the other. The control's loss has no nudge, and so is none of the batch.
    last = first if side_by_side else len(runs)
    in_turn = zip(runs[:last], starts[:last], strict=True)
    phases = [_phase(solver, *run, start) for run, start in in_turn]
    if last < len(runs):
        solve = lambda beta, start: run_solver(solver, loss.nudged(nudge(beta)), start)
        phases += _side_by_side(solve, stencil.nodes, runs[first:], starts[first:])
    return _contrasted(loss, phi_0, free, phases), phases


def _side_by_side(
    solve: Callable[[Scalar | complex, Start], Solution],
    nodes: Sequence[Scalar | complex],
    runs: Sequence[tuple[Loss, Scalar | complex]],
    starts: Sequence[Start],
) -> list[Phase]:
    """The phases of the nodes, run in one batch."""
    stack = lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves])
    # An approximation of the curvature is of the free phase alone, and may be a function.
    each = lambda beta, start: solve(beta, start)._replace(inverse=None)
    solutions = jax.vmap(each)(stack(*nodes), jax.tree.map(stack, *starts))
    take = lambda k: jax.tree.map(lambda leaf: leaf[k], solutions)
    return [_ended(*run, take(k)) for k, run in enumerate(runs)]


def contrast_along(
    loss: Loss,
    phi_0: PyTree,
    tangent: Tangent,
    stencil: Stencil,
    nudge: Callable[[Scalar | complex], Nudge],
) -> tuple[tuple[PyTree, PyTree], list[Phase]]:
    """The contrast of phases that are not run, but lie at `phi_0 + beta u` along their tangent.

    Of the order of the stencil, like that of phases at their minima: the derivative in beta of
    `dL/d(theta, z)` at phi_beta is made of phi's own derivative, and how phi bends is `O(beta^2)`.
    Control changes nothing: without a nudge there is no way to go.
    """
    phases: list[Phase] = []
    for b, (nudged, weight) in zip(stencil.nodes, _nudged(loss, stencil, nudge), strict=True):
        along = lambda p, u, b=b: (p + b * u).astype(p.dtype)
        phi = jax.tree.map(along, _like(phi_0, nudged), tangent.u)
        memory = None if phases else tangent.memory  # one of all of them
        end = Solution(phi, memory, tangent.steps, tangent.converged, model=loss.state)
        phases.append(Phase(nudged, end._replace(curvature=tangent.curvature), weight))
    return _contrasted(loss, phi_0, stencil.free, phases), phases


def _nudged(
    loss: Loss, stencil: Stencil, nudge: Callable[[Scalar | complex], Nudge]
) -> list[tuple[Loss, Scalar | complex]]:
    """The losses of the nodes, and their weights."""
    losses = [loss.nudged(nudge(b)) for b in stencil.nodes]
    return list(zip(losses, stencil.weights, strict=True))


def _phase(solver: Solver, loss: Loss, weight: Scalar | complex, start: Start) -> Phase:
    return _ended(loss, weight, run_solver(solver, loss, start))


def _ended(loss: Loss, weight: Scalar | complex, solution: Solution) -> Phase:
    return Phase(loss.with_state(solution.model), solution, weight)


def _contrasted(
    loss: Loss, phi_0: PyTree, free: Scalar | float | None, phases: Sequence[Phase]
) -> tuple[PyTree, PyTree]:
    """Of the phases, and of phi_0 where that has the weight `free`."""
    losses, weights = [phase.loss for phase in phases], [phase.weight for phase in phases]
    phis = [phase.solution.phi for phase in phases]
    if free is not None:
        losses, weights, phis = [loss, *losses], [free, *weights], [phi_0, *phis]
    return contrast_at(losses, weights, phis)


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
    beta: Scalar | float | None,
    scheme: Scheme,
    order: int | None = None,
    *,
    damping: float | None = None,
    rtol: Scalar | float = 0.0,
    control: bool = False,
    starts: Sequence[Start] | None = None,
    inverse: InverseCurvature | None = None,
    side_by_side: bool = False,
) -> tuple[tuple[PyTree, PyTree], list[Phase]]:
    """`v' dphi_0/d(theta, z)` for a cotangent `v` of phi_0: the contrast of linear nudges along it.

    The nudge has length one and the contrast is multiplied by `|v|`, so that one beta fits
    cotangents of all sizes. With None it is the one by which phi moves a small part of its size:
    `natural_beta`, or `beta_along` the tangent, where the solver has that.

    Args:
        loss: of the free phase.
        phi_0: where that ended.
        v: of phi's structure.
        solver: of the nudged phases.
        beta: see `stencil`.
        scheme: see `stencil`.
        order: see `stencil`.
        damping: as of `LinearNudge`.
        rtol: as of `natural_beta`.
        control: as of `contrast`.
        starts: as of `contrast`.
        inverse: as of `contrast`.
        side_by_side: as of `contrast`.
    """
    size = norm(v)
    along = jax.tree.map(lambda leaf: (leaf / or_one(size)).astype(leaf.dtype), v)
    keep = damping is not None and not loss.samples  # else each view has a slope of its own
    slope = jax.grad(loss.inner)(phi_0) if keep else None
    nudge = partial(LinearNudge, direction=along, phi_0=phi_0, damping=damping, slope=slope)
    tangent = _tangent(loss, phi_0, solver, nudge, starts, inverse)
    if beta is None:
        p = order_of(scheme, order)
        beta = (
            natural_beta(loss, phi_0, v, order=p, damping=damping, tol=solver.tol, rtol=rtol)
            if tangent is None
            else beta_along(phi_0, tangent.u, tangent.curvature, order=p)
        )
    points = stencil(scheme, order, beta).scaled(size)
    if tangent is not None:
        return contrast_along(loss, phi_0, tangent, points, nudge)
    return _contrast_of_runs(loss, phi_0, solver, points, nudge, control, starts, side_by_side)
