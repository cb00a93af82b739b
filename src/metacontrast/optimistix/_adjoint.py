"""The differentiable minimiser as an adjoint of optimistix."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, TypeAlias

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import optimistix as optx

from .._loss import LinearNudge, Loss
from .._must import Count, NotNegative, positive
from .._problem import Problem
from .._sensitivity import Nudging, sensitivity
from .._solver._function import as_solver
from .._stencil import Scheme
from .._tree import dot, norm
from .._types import PyTree, Scalar

# Of optimistix: all that goes into the loop which runs a solver, and the loop.
Inputs: TypeAlias = tuple[PyTree, ...]
Loop: TypeAlias = Callable[[Inputs], tuple[PyTree, PyTree]]
Minimiser: TypeAlias = optx.AbstractMinimiser[Any, Any, Any]
IterativeSolver: TypeAlias = "optx.AbstractIterativeSolver[PyTree, PyTree, PyTree, PyTree]"

MOVED, CLOSE = 0.5, 0.01  # of the nudge, that a nudged solve may leave if it succeeds, and if not
FAILED = (
    "ContrastiveAdjoint: a nudged solve found no minimum, or beta is no number since the curvature "
    "at y is not positive. Give the minimiser a tighter tolerance or more max_steps, choose beta "
    "yourself, add damping, or say ContrastiveAdjoint(throw=False) for a gradient of NaN."
)


class ContrastiveAdjoint(optx.AbstractAdjoint):
    """`optimistix.minimise(..., adjoint=ContrastiveAdjoint())`: differentiate by solving again.

    The rule of `argmin` for any minimiser of optimistix: two more solves from the minimum, with
    `fn(y, args) +- beta <v / |v|, y>`, contrasted by their derivative with respect to `args` and to
    what `fn` closes over. No second derivatives and no linear solve. Forward mode and second
    derivatives work as those of `argmin` do; the initial guess gets no gradient, nor is one of what
    else optimistix reports. The minimiser's tolerance is divided by beta: make it tight.

    `optimistix.least_squares` is differentiated as the minimum of half the squares, and so are
    `root_find` and `fixed_point`, whatever their Jacobian: the squares of `fn(y, args)`, or of
    `fn(y, args) - y`, are 0 there. Their condition is that of the Jacobian squared, which
    `optimistix.ImplicitAdjoint` avoids by its transpose. Their solvers take no such loss, so that
    nudged solves are made by `nudged`.

    A nudged solve that fails is an error, as a failed solve is to optimistix: one that does not
    converge and leaves more than 1% of its nudge, or one that leaves half of it. Where `minimise`
    itself was allowed to fail (`throw=False`) and did, the gradient is NaN instead.

    Args:
        beta: length of the nudge, in units of the gradient of `fn` by `y`; positive. Default: from
            the curvature, see `argmin`.
        scheme: "symmetric" or "forward" (one solve less, error `O(beta)`).
        order: in beta, see `Contrastive`.
        damping: see `Contrastive`.
        nudged: minimiser of the nudged solves. Default: that of `minimise`; for the other problems
            `optimistix.BFGS` with the tolerances of their solver.
        throw: whether a nudged solve that fails is an error; if not, the gradient is NaN.

    Raises:
        ValueError: beta not positive, a bad scheme, order or damping; a root found by a minimiser.

    Reference: Scellier and Bengio, "Equilibrium propagation", 2017; Rader, Lyons and Kidger,
    "Optimistix", 2024.

    Example:
        >>> import jax, jax.numpy as jnp, optimistix as optx
        >>> from metacontrast.optimistix import ContrastiveAdjoint
        >>> def centre(theta):
        ...     fn = lambda y, theta: (y - 4.0) ** 2 + theta * y**2
        ...     solver, adjoint = optx.BFGS(1e-6, 1e-6), ContrastiveAdjoint()
        ...     return optx.minimise(fn, solver, jnp.array(0.0), theta, adjoint=adjoint).value
        >>> round(float(jax.grad(centre)(jnp.array(1.0))), 2)  # of 4 / (1 + theta)
        -1.0
    """

    beta: Annotated[Scalar | float, positive("try 0.1")] | None = None
    scheme: Scheme = "symmetric"
    order: Count | None = None
    damping: NotNegative | None = None
    nudged: Minimiser | None = None
    throw: bool = True

    def __check_init__(self) -> None:
        if self.scheme == "holomorphic":
            raise ValueError(
                "scheme: the minimisers of optimistix do not learn in complex numbers, as "
                "'holomorphic' does; choose 'symmetric', with order=4 for the same accuracy."
            )
        Nudging(as_solver(lambda loss, y: y), self.beta, self.scheme, self.order)  # refuses

    def apply(
        self,
        primal_fn: Loop,
        rewrite_fn: Callable[..., PyTree],
        inputs: Inputs,
        tags: frozenset[object],
    ) -> tuple[PyTree, PyTree]:
        """Called by optimistix with its loop, `primal_fn`, and everything that goes into it."""
        if type(inputs[1]).__name__ == "_MinimToRoot":
            raise ValueError(
                "adjoint: a minimiser finds a root as the least norm, which has a kink there, and "
                "ContrastiveAdjoint needs a curvature; give optimistix.root_find or fixed_point a "
                "root finder or a least-squares solver, or adjoint=optimistix.ImplicitAdjoint()."
            )
        loop = partial(eqxi.while_loop, kind="lax")
        y, report = _solution((*inputs, loop), self, primal_fn)
        # No gradient of the number of steps and the other things optimistix reports.
        return y, jax.tree.map(eqxi.nondifferentiable_backward, report)


@eqx.filter_custom_jvp
def _solution(inputs: Inputs, adjoint: ContrastiveAdjoint, loop: Loop) -> tuple[PyTree, PyTree]:
    return jax.tree.map(jnp.asarray, loop(inputs))


@_solution.def_jvp  # type: ignore[untyped-decorator]
def _solution_and_tangent(
    primals: tuple[Inputs, ContrastiveAdjoint, Loop], tangents: tuple[PyTree, ...]
) -> tuple[tuple[PyTree, PyTree], tuple[PyTree, PyTree]]:
    """Of a problem whose theta is what `fn` closes over and whose z is args."""
    inputs, adjoint, loop = primals
    (t_fn, _, _, t_args, *_), *_ = tangents
    fn, solver, _, args, *_ = inputs
    y, report = _solution(inputs, adjoint, loop)
    (theta, z), others = eqx.partition((fn, args), eqx.is_inexact_array)

    def inner(y: PyTree, theta: PyTree, z: PyTree) -> Scalar:
        fn, args = eqx.combine((theta, z), others)
        return _minimised(solver, y, fn(y, args)[0])

    problem = Problem(lambda theta, z: y, inner, outer=lambda y, theta, z: jnp.zeros(()))
    every = partial(jax.tree.leaves, is_leaf=lambda leaf: leaf is None)
    pairs = list(zip(every((theta, z)), every((t_fn, t_args)), strict=True))
    by_z = any(t is not None for t in jax.tree.leaves(t_args))
    nudging = Nudging(
        as_solver(partial(_solve_nudged, inputs, adjoint, loop, report[1])),
        adjoint.beta, adjoint.scheme, adjoint.order, adjoint.damping, _accuracy(solver, y),
    )  # fmt: skip
    moving = [tangent for leaf, tangent in pairs if leaf is not None]
    moved = sensitivity(Loss(problem, theta, z, by_z=by_z), y, moving, nudging)
    return (y, report), (moved, jax.tree.map(lambda _: None, report))


def _minimised(solver: IterativeSolver, y: PyTree, value: PyTree) -> Scalar:
    """What is least at y: what `fn` returned, or half the squares of what it makes 0."""
    if isinstance(solver, optx.AbstractMinimiser):
        return value
    if isinstance(solver, optx.AbstractFixedPointSolver):
        value = jax.tree.map(jnp.subtract, value, y)
    return 0.5 * dot(value, value)


def _solve_nudged(
    inputs: Inputs, adjoint: ContrastiveAdjoint, loop: Loop, free: optx.RESULTS, loss: Loss,
    start: PyTree,
) -> PyTree:  # fmt: skip
    """The nudged minimum; NaN or an error if it was not found. `free` tells of the free one."""
    fn, solver, _, args, options, max_steps, f_struct, *rest = inputs
    if adjoint.nudged is not None or not isinstance(solver, optx.AbstractMinimiser):
        scalar = jax.eval_shape(loss, start)
        f_struct, options = eqxi.Static(jax.ShapeDtypeStruct((), scalar.dtype)), {}
        solver = adjoint.nudged or optx.BFGS(solver.rtol, solver.atol, solver.norm)
    nudged = lambda y, args: (loss(y), fn(y, args)[1])
    found, (_, result, *_) = loop(
        (nudged, solver, start, args, options, max_steps, f_struct, *rest)
    )
    assert isinstance(loss.nudge, LinearNudge)
    allowed = jnp.where(result == optx.RESULTS.successful, MOVED, CLOSE)
    left = norm(jax.grad(loss)(found))
    asked = norm(loss.nudge.direction) > 0
    fine = ~asked | (left <= allowed * jnp.abs(loss.nudge.beta))
    if adjoint.throw:
        found = eqx.error_if(found, ~fine & (free == optx.RESULTS.successful), FAILED)
    return jax.tree.map(lambda leaf: jnp.where(fine, leaf, jnp.nan), found)


def _accuracy(solver: IterativeSolver, y: PyTree) -> Scalar:
    """The relative distance from the minimum at which it may stop; searches by value, at best."""
    size = jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(y)]))
    eps = float(jnp.finfo(size.dtype).eps)
    return jnp.maximum(solver.rtol + solver.atol / jnp.maximum(size, eps**0.5), eps**0.5)
