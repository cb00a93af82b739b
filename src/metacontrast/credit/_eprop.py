"""E-prop: each synapse of a spiking network keeps a trace of what it did, until it is judged."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from ..nets._spiking import Response, Spiking, Weights, low_pass, low_pass_back
from ._rule import Rule


def eprop(net: Spiking, feedback: jax.Array | None = None, online: bool = False) -> Rule:
    """E-prop: eligibility traces, multiplied by a learning signal that each neuron hears.

        e_ji(t) = psi_j(t) xbar_i(t),   dW_ji = sum_t LP_kappa[e_ji](t) sum_k B_kj E_k(t),

    with xbar the presynaptic spikes, low-passed by alpha (those of W_rec one step late), psi the
    surrogate derivative of the postsynaptic spike and `E_k(t) = dL/do_k(t)`. A loss of the firing
    rate gives the signal `dL/drate_j / T`, which is not low-passed by kappa. With B = W_out it is
    the gradient of the loss if spikes are not followed through W_rec to other spikes.

    Args:
        net: the network.
        feedback: B, of shape (outputs, neurons), fixed. Default: W_out as it is, the symmetric one.
        online: carry the traces of all synapses forward in time, in memory that does not grow with
            T. Default: sum the same terms in another order, which is faster on a computer and
            remembers T steps of each neuron.

    Returns:
        A rule, `(phi, x, key=None) -> Response`, for `grad` and for `by`; x is one example or a
        batch (..., T, inputs). No key is needed, and no error is carried back to x.

    Raises:
        ValueError: feedback of another shape.

    Reference: Bellec et al., "A solution to the learning dilemma for recurrent networks of spiking
    neurons", 2020.

    Example:
        >>> net = Spiking(inputs=5, neurons=4, outputs=1)
        >>> phi, x = net.init(jax.random.key(0)), jnp.ones((20, 5))
        >>> slope = lambda rule: jax.grad(lambda phi: jnp.sum(rule(phi, x).readout))(phi).inputs
        >>> bool(jnp.allclose(slope(eprop(net)), slope(eprop(net, online=True)), rtol=1e-4))
        True
    """
    shape = (net.outputs, net.neurons)
    if feedback is not None and jnp.shape(feedback) != shape:
        raise ValueError(f"feedback: must have shape {shape}, not {jnp.shape(feedback)}.")

    # Not `credited`, whose answer would have to run the network for a second time.
    @jax.custom_vjp
    def rule(phi: Weights, x: jax.Array) -> Response:
        return net.apply(phi, x)

    def forward(phi: Weights, x: jax.Array) -> tuple[Response, Any]:
        if online:
            return net.apply(phi, x), (phi, x)
        v, z = net.run(phi, x)
        return net.respond(phi, z), (phi, x, v, z)

    def backward(kept: Any, error: Response) -> tuple[Weights, None]:
        b = kept[0].readout if feedback is None else feedback
        return (_carried if online else _summed)(net, b, error, *kept), None

    rule.defvjp(forward, backward)
    return lambda phi, x, key=None: rule(phi, x)


def _summed(
    net: Spiking,
    b: jax.Array,
    error: Response,
    phi: Weights,
    x: jax.Array,
    v: jax.Array,
    z: jax.Array,
) -> Weights:
    """The sum over t first; `LP_kappa` moves from the traces to the errors, as its transpose."""
    heard = low_pass_back(net.kappa, error.readout @ b) + _of_rate(error, z.shape[-2])
    signal = net.psi(v - net.threshold) * heard
    late = jnp.concatenate([jnp.zeros_like(z[..., :1, :]), z[..., :-1, :]], -2)
    return Weights(
        _outer(signal, low_pass(net.alpha, x)),
        _outer(signal, low_pass(net.alpha, late)),
        _outer(error.readout, low_pass(net.kappa, z)),
    )


def _carried(net: Spiking, b: jax.Array, error: Response, phi: Weights, x: jax.Array) -> Weights:
    """One step after another, each synapse with its own eligibility trace."""
    of_rate = jnp.squeeze(_of_rate(error, x.shape[-2]), -2)
    decayed = partial(jax.tree.map, lambda trace, new: net.kappa * trace + new)

    def step(carry: Any, now: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
        (v, z, xbar, zbar, traces), total = carry
        x_t, error_t = now
        v = net.integrate(v, z, x_t @ phi.inputs.T, phi.recurrent)
        xbar, zbar, z = net.alpha * xbar + x_t, net.alpha * zbar + z, net.fire(v)
        psi = net.psi(v - net.threshold)[..., None]
        fresh = (psi * xbar[..., None, :], psi * zbar[..., None, :])
        traces = decayed(traces, (*fresh, z))
        heard = (error_t @ b)[..., None]
        rate = of_rate[..., None]
        new = Weights(
            heard * traces[0] + rate * fresh[0],
            heard * traces[1] + rate * fresh[1],
            error_t[..., None] * traces[2][..., None, :],
        )
        return ((v, z, xbar, zbar, traces), jax.tree.map(jnp.add, total, new)), None

    batch = x.shape[:-2]
    zero = lambda *shape: jnp.zeros((*batch, *shape), phi.readout.dtype)
    n, i = net.neurons, net.inputs
    states = (zero(n), zero(n), zero(i), zero(n), (zero(n, i), zero(n, n), zero(n)))
    total = Weights(zero(n, i), zero(n, n), zero(net.outputs, n))
    steps = (jnp.moveaxis(x, -2, 0), jnp.moveaxis(error.readout, -2, 0))
    total = jax.lax.scan(step, (states, total), steps)[0][1]
    return jax.tree.map(lambda leaf: jnp.sum(leaf, range(len(batch))), total)


def _of_rate(error: Response, steps: int) -> jax.Array:
    return error.rate[..., None, :] / steps


def _outer(post: jax.Array, pre: jax.Array) -> jax.Array:
    """`sum_t post_j(t) pre_i(t)`, over all examples."""
    return jnp.einsum("...tj,...ti->ji", post, pre)
