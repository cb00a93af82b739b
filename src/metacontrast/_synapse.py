"""The complex synapse: each fast weight is pulled to a slow one, with a slow strength."""

from __future__ import annotations

from typing import Annotated, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._must import nudge
from ._tree import kinds, widened
from ._types import Arrays, PyTree, Scalar

Beta: TypeAlias = Annotated[Float[Array, ""] | float, nudge()]


class Synapse(NamedTuple):
    """Slow weights of a complex synapse; `pull` is what ties the fast weights phi to them.

    With a fixed `log_lam` only the resting point omega is learned (the form of iMAML, Rajeswaran
    et al., 2019); with `omega=None` it is an l2 penalty with one strength a weight.

    Attributes:
        omega: where phi is pulled to, of phi's structure and shapes. Default: zero.
        log_lam: the logarithm of lambda, which keeps it positive: one number for all, or a tree of
            phi's structure or a prefix of it (one number a layer, say) whose leaves broadcast
            against those of phi.

    Reference: Zucchet et al., 2022, section on complex synapses.

    Example:
        >>> phi = {"w": jnp.array([1.0, 3.0]), "b": jnp.array([2.0])}
        >>> float(Synapse().pull(phi))
        14.0
        >>> omega = {"w": jnp.array([1.0, 1.0]), "b": jnp.array([0.0])}
        >>> float(Synapse(omega, {"w": jnp.log(2.0), "b": 0.0}).pull(phi))
        12.0
    """

    omega: PyTree = None
    log_lam: PyTree = 0.0

    def pull(self, phi: Arrays) -> Scalar:
        """`sum_i lambda_i (phi_i - omega_i)^2`, without a factor 1/2, as in the paper."""
        terms = jax.tree.map(
            lambda log, p, o: jnp.sum(jnp.exp(log) * (p - o) ** 2),
            broadcast(self.log_lam, phi),
            phi,
            self.resting_point(phi),
        )
        return jnp.sum(jnp.stack(jax.tree.leaves(terms)))

    def strengths(self, phi: Arrays) -> PyTree:
        """lambda, one a weight of phi."""
        return jax.tree.map(jnp.exp, broadcast(self.log_lam, phi))

    def resting_point(self, phi: Arrays) -> PyTree:
        """omega, of phi's structure and shapes."""
        if self.omega is None:
            return jax.tree.map(jnp.zeros_like, phi)
        ours, its = (list(map(jnp.shape, jax.tree.leaves(tree))) for tree in (self.omega, phi))
        if ours != its:
            raise ValueError(
                f"omega: must have the shapes of `phi`, {kinds(phi)}, not {kinds(self.omega)}; "
                "each weight is pulled to a resting point of its own."
            )
        return self.omega

    def contrast(self, phi_0: Arrays, phi_beta: Arrays, beta: Beta) -> Synapse:
        """The contrastive rule of this synapse in closed form; each weight sees only itself.

            d omega_i    = -(2 lambda_i / beta) (phi_beta - phi_0)_i
            d log lam_i  = (lambda_i / beta) [ (phi_beta - omega)_i^2 - (phi_0 - omega)_i^2 ]

        The forward-difference `Contrastive` gradient of a loss that holds `pull` and has no other
        theta. The second is summed over the weights that share one `log_lam`.

        Args:
            phi_0: where the free phase ended.
            phi_beta: where the nudged one did.
            beta: the nudge.

        Returns:
            The gradients of the meta-loss by `omega` and `log_lam`.
        """
        # In wide types, as the rule itself takes them: a difference is left with few digits.
        omega = jax.tree.map(widened, self.resting_point(phi_0))
        log_lam = jax.tree.map(lambda x: widened(jnp.asarray(x)), self.log_lam)
        lam = Synapse(log_lam=log_lam).strengths(phi_0)
        by_omega = jax.tree.map(lambda s, b, f: -2 * s / beta * (b - f), lam, phi_beta, phi_0)
        by_weight = jax.tree.map(
            lambda s, b, f, o: s / beta * ((b - o) ** 2 - (f - o) ** 2), lam, phi_beta, phi_0, omega
        )
        # The transpose of the broadcast sums over the weights that share a strength.
        spread = lambda x: jax.tree.map(
            lambda s, w: s.astype(w.dtype), broadcast(x, phi_0), by_weight
        )
        _, shared = jax.vjp(spread, log_lam)
        like = lambda x, g: g.astype(jnp.result_type(x))
        return Synapse(
            jax.tree.map(like, self.resting_point(phi_0), by_omega),
            jax.tree.map(like, self.log_lam, shared(by_weight)[0]),
        )


def broadcast(strengths: PyTree, phi: PyTree) -> PyTree:
    """`strengths`, a prefix of phi's tree, spread out to phi's structure and shapes."""
    spread = lambda s, part: jax.tree.map(lambda p: jnp.broadcast_to(s, jnp.shape(p)), part)
    return jax.tree.map(spread, strengths, phi)
