"""How long a linear nudge should be, from the curvature that resists it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from ._conjugate_gradient import cg
from ._curved import curved
from ._linear import coarsest, own_size
from ._loss import Loss
from ._tree import norm, or_one, widened
from ._types import PyTree, Scalar

STEPS = 4  # of conjugate gradient, two gradients each
ENOUGH = 0.1  # relative residual at which a displacement is known well enough
SMALLER = 0.3  # than phi is the way on which a loss bends: a guess, on the safe side
NOISE = 2.0  # curvatures below so many eps^(2/3) of the largest product met are round-off
UNIT = 1 / 6  # power of eps that stands for the size of a phi of 0: it is moved by about eps^(1/2)


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
    v = widened(ravel_pytree(direction)[0])
    product = curved(loss, phi_0, damping or 0.0, central=True, watch=False)
    noise = NOISE * coarsest(phi_0) ** (2 / 3)
    u = cg(lambda p: product(p)[0], v / or_one(norm(v)), STEPS, ENOUGH, noise)
    curvature = jnp.where(u.resolved, u.curvature, jnp.nan)
    residual = jnp.zeros(()) if damping is not None else norm(jax.grad(loss)(phi_0))
    off = jnp.maximum(residual, tol or 0.0)
    return beta_along(phi_0, u.x, curvature, order=order, off=off, rtol=rtol)


def beta_along(
    phi_0: PyTree,
    u: PyTree,
    curvature: Scalar | None,
    *,
    order: int,
    off: Scalar | float = 0.0,
    rtol: Scalar | float = 0.0,
) -> Scalar:
    """`natural_beta`, of a `u` that is known.

    Args:
        phi_0: where the free phase ended.
        u: `H^-1 v / |v|`; 0 where v is.
        curvature: the smallest that was met on the way to u; None if nobody looked.
        order: of the scheme in beta.
        off: norm of the slope with which phases end.
        rtol: relative distance from the minimum with which they end.
    """
    x, eps = widened(ravel_pytree(phi_0)[0]), coarsest(phi_0)
    largest = jnp.max(jnp.abs(ravel_pytree(u)[0]))
    unit = own_size(x, eps, eps**UNIT) / or_one(largest)
    q = jnp.maximum(off / unit, rtol)
    s = jnp.maximum(SMALLER * jnp.maximum(eps, q) ** (1 / (1 + order)), q)
    # Of a v along which all is flat, nothing is left that could be answered.
    met = jnp.inf if curvature is None else curvature
    sound = (met > 0) | ((met == 0) & (largest > 0))
    return jnp.where(sound, s * unit, jnp.nan)
