"""The complex synapse: each fast weight is pulled to a slow one, with a slow strength."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from .._problem import PyTree


def attraction(phi: PyTree, omega: PyTree = None, log_lam: PyTree = 0.0) -> jax.Array:
    """The pull of the slow on the fast weights, `sum_i lambda_i (phi_i - omega_i)^2`.

    Without a factor 1/2, as in the talk. Its special cases are the talk's too: with a fixed
    `log_lam` only the resting point omega is learned (the form of iMAML, Rajeswaran et al., 2019);
    with `omega=None` it is an l2 penalty with one strength a weight.

    Args:
        phi: fast weights.
        omega: where they are pulled to, of phi's structure and shapes. Default: to zero.
        log_lam: the logarithm of lambda, which keeps it positive: one number for all, or a tree of
            phi's structure or a prefix of it (one number a layer, say) whose leaves broadcast
            against those of phi.

    Example:
        >>> phi = {"w": jnp.array([1.0, 3.0]), "b": jnp.array([2.0])}
        >>> float(attraction(phi))
        14.0
        >>> omega = {"w": jnp.array([1.0, 1.0]), "b": jnp.array([0.0])}
        >>> float(attraction(phi, omega, {"w": jnp.log(2.0), "b": 0.0}))
        12.0
    """
    omega = jax.tree.map(jnp.zeros_like, phi) if omega is None else omega
    pull = jax.tree.map(
        lambda strength, p, o: jnp.sum(jnp.exp(strength) * (p - o) ** 2),
        broadcast(log_lam, phi),
        phi,
        omega,
    )
    return jnp.sum(jnp.stack(jax.tree.leaves(pull)))


def synapse_contrast(
    phi_0: PyTree, phi_beta: PyTree, omega: PyTree = None, log_lam: PyTree = 0.0, *, beta: Any
) -> tuple[PyTree, PyTree]:
    """The contrastive rule of a complex synapse in closed form; each weight sees only itself.

        d omega_i    = -(2 lambda_i / beta) (phi_beta - phi_0)_i
        d log lam_i  = (lambda_i / beta) [ (phi_beta - omega)_i^2 - (phi_0 - omega)_i^2 ]

    The forward-difference `Contrastive` gradient of a loss that holds `attraction` and has no
    other theta. The second is summed over the weights that share one `log_lam`. The defaults are
    those of `attraction`.

    Returns:
        The gradients of the meta-loss with respect to `omega` and `log_lam`.

    Reference: Zucchet et al., 2022, section on complex synapses.
    """
    omega = jax.tree.map(jnp.zeros_like, phi_0) if omega is None else omega
    lam = jax.tree.map(jnp.exp, broadcast(log_lam, phi_0))
    omega_grad = jax.tree.map(lambda s, b, f: -2 * s / beta * (b - f), lam, phi_beta, phi_0)
    by_weight = jax.tree.map(
        lambda s, b, f, o: s / beta * ((b - o) ** 2 - (f - o) ** 2), lam, phi_beta, phi_0, omega
    )
    # The transpose of the broadcast sums over the weights that share a strength.
    _, shared = jax.vjp(lambda strengths: broadcast(strengths, phi_0), log_lam)
    return omega_grad, shared(by_weight)[0]


def broadcast(strengths: PyTree, phi: PyTree) -> PyTree:
    """`strengths`, a prefix of phi's tree, spread out to phi's structure and shapes."""
    spread = lambda s, part: jax.tree.map(lambda p: jnp.broadcast_to(s, jnp.shape(p)), part)
    return jax.tree.map(spread, strengths, phi)
