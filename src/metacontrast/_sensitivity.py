"""How a minimiser moves with what its loss depends on, forwards and backwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from ._contrast import linear_contrast
from ._loss import Loss
from ._solver._base import Solver
from ._stencil import Scheme, stencil
from ._tree import widened
from ._types import PyTree, Scalar

ONCE = (
    "inner: second derivatives of a minimiser need those of its inner loss, which this one does "
    "not have (a custom_vjp or a callback); write it with jax.numpy, or take first derivatives."
)


@dataclass(frozen=True)
class Nudging:
    """How the answer of a minimiser to linear nudges is found.

    Args:
        solver: of the nudged solves, which start at the minimum.
        beta: length of the nudge; None for `natural_beta`.
        scheme: see `stencil`.
        order: see `stencil`.
        damping: see `LinearNudge`.
        rtol: relative distance from the minimum with which the solver is content, if it has no
            `tol`.
    """

    solver: Solver
    beta: Scalar | float | None = None
    scheme: Scheme = "symmetric"
    order: int | None = None
    damping: float | None = None
    rtol: Scalar | float = 0.0

    def __post_init__(self) -> None:
        stencil(self.scheme, self.order, 1.0 if self.beta is None else self.beta)

    def response(
        self, loss: Loss, phi_0: PyTree, v: PyTree
    ) -> tuple[PyTree, tuple[PyTree, PyTree]]:
        """`u = H^-1 v`, and `v' dphi_0/d(theta, z) = -u' d2L/dphi d(theta, z)`, by nudging along v.

        `u` is how far the nudged phases went, and the other is their contrast.
        """
        grads, phases = linear_contrast(
            loss, phi_0, v, self.solver, self.beta, self.scheme, self.order,
            damping=self.damping, rtol=self.rtol,
        )  # fmt: skip

        def back(start: jax.Array, *ends: jax.Array) -> jax.Array:
            pairs = zip(phases, ends, strict=True)
            ways = [jnp.real(phase.weight * (end - start)) for phase, end in pairs]
            return -jnp.sum(jnp.stack(ways), axis=0).astype(start.dtype)

        return jax.tree.map(back, phi_0, *(phase.solution.phi for phase in phases)), grads


def sensitivity(
    loss: Loss, phi_0: PyTree, tangents: Sequence[jax.Array | None], nudging: Nudging
) -> PyTree:
    """`dphi_0/d(theta, z)` along tangents: a linear map that knows its transpose.

    At a minimum `H dphi + C t = 0`, with H the curvature and `C = d2L/dphi d(theta, z)`. Forwards,
    `H^-1` is taken of `C t`, one product of the loss's second derivatives, by how far nudged phases
    go along it. Backwards, for a cotangent `v`, the contrast of phases nudged along v is
    `-C' H^-1 v` at once, from first derivatives only. JAX is told that both solve the system

        [ 1  0 ] [ t    ]   [ t ]
        [ C  H ] [ dphi ] = [ 0 ],

    and differentiates that for derivatives of a higher order; these need those of the loss.

    A loss whose gradient has no derivative is differenced instead of `C t`, along theta; second
    derivatives of its minimiser are refused.

    Args:
        loss: of the free phase.
        phi_0: its minimiser, whose own derivatives are known to JAX.
        tangents: one for each leaf of `(loss.theta, loss.z)`; None for 0.
        nudging: how.

    Raises:
        TypeError: second derivatives of a loss that has none.
    """
    leaves, structure = jax.tree.flatten((loss.theta, loss.z))
    which = [i for i, t in enumerate(tangents) if t is not None]
    values = [jnp.asarray(leaves[i]) for i in which]
    ways = [t for t in tangents if t is not None]
    still = jax.tree.map(jnp.zeros_like, phi_0)
    if not which:
        return still

    def slope(values: list[jax.Array], phi: PyTree) -> PyTree:
        moved = dict(zip(which, values, strict=True))
        theta, z = jax.tree.unflatten(
            structure, [moved.get(i, leaf) for i, leaf in enumerate(leaves)]
        )
        return jax.grad(replace(loss, theta=theta, z=z))(phi)

    def system(x: tuple[list[jax.Array], PyTree]) -> tuple[list[jax.Array], PyTree]:
        moves = x[0], jax.jvp(slope, (values, phi_0), x)[1]
        return jax.tree.map(lambda leaf: leaf * one.astype(leaf.dtype), moves)

    # JAX transposes only systems all of which depends on what any part of them does.
    one = 1.0 + _nothing(jax.tree.leaves(phi_0))
    cross = lambda t: system((t, still))[1]
    try:
        # JAX lets a custom_vjp pass until its derivative is run, or is to be run side by side.
        jax.eval_shape(jax.vmap(system), jax.tree.map(lambda leaf: leaf[None], (ways, still)))
    except (TypeError, ValueError, NotImplementedError):
        wide = list(map(widened, values))  # narrow ones would be moved by whole parts of their size
        cross = lambda t: _difference(lambda values: slope(values, phi_0), wide, t)
        one = _once(jnp.ones(()), (values, phi_0))
        system = lambda x: jax.tree.map(lambda leaf: leaf * one.astype(leaf.dtype), x)

    def solve(_: object, b: tuple[list[jax.Array], PyTree]) -> tuple[list[jax.Array], PyTree]:
        t, p = b
        return t, nudging.response(loss, phi_0, jax.tree.map(jnp.subtract, p, cross(t)))[0]

    def solve_transposed(
        _: object, b: tuple[list[jax.Array], PyTree]
    ) -> tuple[list[jax.Array], PyTree]:
        t, p = b
        u, grads = nudging.response(loss, phi_0, p)
        by = jax.tree.leaves(grads)
        return [old + by[i].astype(old.dtype) for i, old in zip(which, t, strict=True)], u

    b = _plus((ways, still), _nothing(ways))
    moved, answer = jax.lax.custom_linear_solve(system, b, solve, solve_transposed)
    return _plus(answer, _nothing(moved))


def _nothing(leaves: Sequence[jax.Array]) -> Scalar:
    """A 0 that depends on the leaves."""
    return sum((0.0 * jnp.sum(leaf) for leaf in leaves), jnp.zeros(()))


def _plus(tree: PyTree, number: Scalar) -> PyTree:
    return jax.tree.map(lambda leaf: leaf + number.astype(leaf.dtype), tree)


def _difference(
    f: Callable[[list[jax.Array]], PyTree], x: list[jax.Array], t: list[jax.Array]
) -> PyTree:
    """The derivative of `f` at x along t, by a central difference."""
    largest = lambda tree: jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in tree]))
    size, scale = largest(t), largest(x)
    eps = float(jnp.finfo(scale.dtype).eps)
    step = eps ** (1 / 3) * jnp.where(scale > 0, scale, 1.0)
    size = jnp.where(size > 0, size, 1.0)
    ends = [f([a + sign * step / size * d for a, d in zip(x, t, strict=True)]) for sign in (1, -1)]
    return jax.tree.map(lambda a, b: (a - b) * (size / (2 * step)), *ends)


@jax.custom_jvp
def _once(value: jax.Array, of: PyTree) -> jax.Array:
    """The value, as something that depends on `of` and has no derivative."""
    return value


@_once.defjvp
def _refused(primals: PyTree, tangents: PyTree) -> tuple[jax.Array, jax.Array]:
    raise TypeError(ONCE)
