"""How long a linear nudge should be, from the curvature that resists it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int

from ._linear import Vector
from ._loss import Loss
from ._precision import matmul
from ._tree import norm, or_one
from ._types import PyTree, Scalar

STEPS = 4  # of conjugate gradient, two gradients each
ENOUGH = 0.1  # relative residual at which a displacement is known well enough
SMALLER = 0.3  # than phi is the way on which a loss bends: a guess, on the safe side
NOISE = 2.0  # curvatures below so many eps^(2/3) of the largest met are round-off
ZERO, UNIT = 0.6, 1 / 6  # powers of eps: a phi below is taken for 0, and what it is then moved by


class _Search(NamedTuple):
    u: Vector  # towards H^-1 v
    r: Vector  # v - H u
    p: Vector
    rest: Vector  # H (p - r)
    first: Float[Array, ""]  # the curvature along v
    top: Float[Array, ""]  # the largest curvature met
    sound: Bool[Array, ""]  # no curvature was negative or NaN
    going: Bool[Array, ""]
    k: Int[Array, ""]


def natural_beta(
    loss: Loss,
    phi_0: PyTree,
    direction: PyTree,
    *,
    order: int = 2,
    damping: float | None = None,
    tol: float | None = None,
    rtol: Scalar | float = 0.0,
) -> Scalar:
    """The beta at which `beta <v / |v|, phi>` moves phi_0 by the right fraction of its own size.

        beta = s |phi_0| / |u|,   u = H^-1 v / |v|,   s = 0.3 max(eps, q)^(1 / (1 + order)),

    in largest components. `q` is the relative distance from the minimum at which phases stop: the
    residual at `phi_0`, and what the solver is content with. So `s` balances the error of the
    nudge, `O(s^order)`, with that of the phases, `O(q / s)`. Never is the displacement below `q`.
    `H` is met by at most 8 gradients, as four steps of conjugate gradient on central differences:
    `u` is exact where v meets four curvatures, and too short otherwise, since soft directions come
    last. It has the units of `dL/dphi`: the unit of phi, of theta or of the loss may be any. A
    phi_0 of 0, to eps^0.6, has no size of its own; it is moved as if its unit were 1, by about
    `sqrt(eps)`.

    Args:
        loss: of the free phase.
        phi_0: where that ended.
        direction: `v`, of phi's structure and of any length.
        order: of the scheme in beta.
        damping: added to the curvature, see `LinearNudge`; the residual at phi_0 then is taken out
            of the nudged phases, and does not count.
        tol: of the nudged solver, on the norm of the gradient.
        rtol: of the nudged solver, on the relative distance from the minimum.

    Returns:
        beta, positive. NaN where the nudged phases have no minimum near: the curvature along v, or
        one of those met, is negative, NaN, or, along v, flat to round-off.

    Reference: the step of a central difference: Gill, Murray, Saunders and Wright, 1983; the
    trade-off: Zucchet et al., 2022.

    Example: a spring of stiffness 4 at rest at 2 is moved by 0.3 eps^(1/3) of 2.
        >>> import jax.numpy as jnp
        >>> from metacontrast._loss import as_loss
        >>> loss = as_loss(lambda phi: 2.0 * (phi - 2.0) ** 2)
        >>> phi = jnp.array(2.0)
        >>> beta = natural_beta(loss, phi, jnp.array(7.0))
        >>> round(float(beta / 4 / 2 / jnp.finfo(phi.dtype).eps ** (1 / 3)), 2)
        0.3
    """
    x, unravel = ravel_pytree(phi_0)
    wide = jnp.promote_types(x.dtype, jnp.float32)
    eps = max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(phi_0))
    largest = jnp.max(jnp.abs(x)).astype(wide)
    scale = jnp.where(largest > eps**ZERO, largest, eps**UNIT)

    def slope(x: Vector) -> Vector:
        grad = jax.grad(loss)(unravel(x.astype(phi_dtype)))
        return ravel_pytree(grad)[0].astype(wide)

    phi_dtype, x = x.dtype, x.astype(wide)
    v = ravel_pytree(direction)[0].astype(wide)
    length = norm(v)
    v = v / or_one(length)

    def curved(p: Vector) -> Vector:
        size = jnp.max(jnp.abs(p))
        away = eps ** (1 / 3) * scale / size * p
        difference = slope(x + away) - slope(x - away)
        return difference * (size / (2 * eps ** (1 / 3) * scale)) + (damping or 0.0) * p

    found = _search(curved, v, NOISE * eps ** (2 / 3))
    unit = scale / jnp.max(jnp.abs(found.u))
    residual = jnp.zeros((), wide) if damping is not None else jnp.linalg.norm(slope(x))
    q = jnp.maximum(jnp.maximum(residual, tol or 0.0) / unit, rtol)
    s = jnp.maximum(SMALLER * jnp.maximum(eps, q) ** (1 / (1 + order)), q)
    beta = jnp.where(found.sound, s * unit, jnp.nan)
    return jnp.where(length == 0, scale, beta)  # where nothing is asked, any will do


def _search(curved: Callable[[Vector], Vector], v: Vector, noise: float) -> _Search:
    """Conjugate gradient for `H u = v`, until it is known well enough or meets what is not convex.

    What falls below the noise of the largest curvature is flat: there the search ends, but for
    `v` itself, of which a flat direction leaves nothing that could be answered.
    """

    def step(at: _Search) -> _Search:
        hp = curved(at.p)
        pp, php, rr = matmul(at.p, at.p), matmul(at.p, hp), matmul(at.r, at.r)
        curvature = php / pp
        top = jnp.maximum(at.top, jnp.linalg.norm(hp - at.rest) / jnp.sqrt(rr))
        first = jnp.where(at.k == 0, curvature, at.first)
        bent = curvature > noise * top
        alpha = jnp.where(bent, rr / php, 0.0)
        r = at.r - alpha * hp
        left = matmul(r, r)
        again = left / rr
        sound = (curvature >= -noise * top) & (first > noise * top)
        going = bent & sound & (left > ENOUGH**2) & (at.k + 1 < STEPS)
        p, rest = r + again * at.p, again * hp
        return _Search(at.u + alpha * at.p, r, p, rest, first, top, sound, going, at.k + 1)

    length = matmul(v, v)
    zero, moves = jnp.zeros((), v.dtype), length > 0
    nothing, known = jnp.zeros_like(v), ~jnp.isnan(length)
    start = _Search(nothing, v, v, nothing, zero, zero, known, moves, jnp.array(0))
    return jax.lax.while_loop(lambda at: at.going, step, start)
