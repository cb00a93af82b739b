"""E-prop: each synapse of a spiking network keeps a trace of its activity until an error comes."""

from __future__ import annotations

from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._precision import matmul
from .._types import Key, PyTree
from ..nets._spiking import Response, Spiking, Weights, low_pass, low_pass_back
from ._rule import Rule

Matrix: TypeAlias = Float[Array, "rows columns"]
Series: TypeAlias = Float[Array, "*batch T units"]


def eprop(net: Spiking, feedback: Matrix | None = None, online: bool = False) -> Rule:
    """E-prop: eligibility traces, multiplied by a learning signal, one a neuron.

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
        A rule, `(phi, x, key=None) -> Response`, for `grad` and for `with_credit_rule`; x is one
        example or a batch (..., T, inputs). No key is needed, and no error is carried back to x.

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

    # Not `credit_rule`, whose backward pass would have to run the network for a second time.
    @jax.custom_vjp
    def rule(phi: Weights, x: Series) -> Response:
        return net.apply(phi, x)

    def forward(phi: Weights, x: Series) -> tuple[Response, tuple[PyTree, ...]]:
        if online:
            return net.apply(phi, x), (phi, x)
        v, z = net.run(phi, x)
        return net.respond(phi, z), (phi, x, v, z)

    def backward(residuals: tuple[PyTree, ...], error: Response) -> tuple[Weights, None]:
        b = residuals[0].readout if feedback is None else feedback
        gradient = _forward_in_time if online else _sum_over_time
        return gradient(net, b, error, *residuals), None

    rule.defvjp(forward, backward)

    def eligibility(phi: Weights, x: Series, key: Key | None = None) -> Response:
        return rule(phi, x)

    return eligibility


def _sum_over_time(
    net: Spiking, b: Matrix, error: Response, phi: Weights, x: Series, v: Series, z: Series
) -> Weights:
    """The sum over t first; `LP_kappa` moves from the traces to the errors, as its transpose."""
    by_readout = low_pass_back(net.kappa, matmul(error.readout, b))
    learning_signal = by_readout + _of_rate(error, z.shape[-2])
    signal = net.psi(v - net.threshold) * learning_signal
    late = jnp.concatenate([jnp.zeros_like(z[..., :1, :]), z[..., :-1, :]], -2)
    return Weights(
        _outer(signal, low_pass(net.alpha, x)),
        _outer(signal, low_pass(net.alpha, late)),
        _outer(error.readout, low_pass(net.kappa, z)),
    )


def _forward_in_time(net: Spiking, b: Matrix, error: Response, phi: Weights, x: Series) -> Weights:
    """One step after another, each synapse with its own eligibility trace."""
    of_rate = jnp.squeeze(_of_rate(error, x.shape[-2]), -2)
    decay = partial(jax.tree.map, lambda trace, new: net.kappa * trace + new)

    def step(carry: PyTree, inputs: tuple[jax.Array, jax.Array]) -> tuple[PyTree, None]:
        (v, z, xbar, zbar, traces), total = carry
        x_t, error_t = inputs
        v = net.integrate(v, z, matmul(x_t, phi.inputs.T), phi.recurrent)
        xbar, zbar, z = net.alpha * xbar + x_t, net.alpha * zbar + z, net.fire(v)
        psi = net.psi(v - net.threshold)[..., None]
        eligible = (psi * xbar[..., None, :], psi * zbar[..., None, :])
        traces = decay(traces, (*eligible, z))
        signal = matmul(error_t, b)[..., None]
        rate = of_rate[..., None]
        new = Weights(
            signal * traces[0] + rate * eligible[0],
            signal * traces[1] + rate * eligible[1],
            error_t[..., None] * traces[2][..., None, :],
        )
        return ((v, z, xbar, zbar, traces), jax.tree.map(jnp.add, total, new)), None

    batch = x.shape[:-2]
    steps = (jnp.moveaxis(x, -2, 0), jnp.moveaxis(error.readout, -2, 0))
    (_, total), _ = jax.lax.scan(step, _rest(net, batch, phi.readout.dtype), steps)
    return jax.tree.map(lambda leaf: jnp.sum(leaf, range(len(batch))), total)


def _rest(net: Spiking, batch: tuple[int, ...], dtype: jnp.dtype) -> tuple[PyTree, Weights]:
    """The states of neurons and traces before the first step, and a gradient of zero."""
    zero = lambda *shape: jnp.zeros((*batch, *shape), dtype)
    n, i = net.neurons, net.inputs
    states = (zero(n), zero(n), zero(i), zero(n), (zero(n, i), zero(n, n), zero(n)))
    return states, Weights(zero(n, i), zero(n, n), zero(net.outputs, n))


def _of_rate(error: Response, steps: int) -> Float[Array, "*batch 1 neurons"]:
    return error.rate[..., None, :] / steps


def _outer(post: Series, pre: Series) -> Matrix:
    """`sum_t post_j(t) pre_i(t)`, over all examples."""
    return jnp.einsum("...tj,...ti->ji", post, pre, precision="highest")
