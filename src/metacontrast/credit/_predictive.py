"""Predictive coding: each layer predicts the next, and what is left over is its error."""

from __future__ import annotations

import jax.numpy as jnp

from .._must import Count, Positive
from .._precision import matmul
from .._types import Key, PyTree
from ._layers import Activation, Vector, forward, layers, local, output, slope
from ._rule import Rule, credit_rule


def predictive_coding(
    nudge: Positive, sweeps: Count = 3, activation: Activation = jnp.tanh
) -> Rule:
    """Predictive coding: inference converges, then each synapse reduces its own error.

        E(a) = 1/2 sum_l |eps_l|^2 + nudge error . a_L,   eps_l = a_l - W_l f(a_(l-1)) - b_l,
        dE/da = 0:   eps_L = -nudge error,   eps_l = f'(a_l) W_(l+1)' eps_(l+1),
        dW_l = -eps_l f(a_(l-1))' / nudge.

    Not nudged, all errors vanish and the output is the feedforward one. The gradient is that of
    backpropagation up to `O(nudge)`, because f' and the activities are those of the nudged state.

    Departure: inference alternates sweeps (up: a from eps; down: eps from a), which contract onto
    the stationary point of E by a factor `O(nudge error)` each, in place of a gradient flow. One
    sweep holds the predictions fixed and is backpropagation itself, whatever the nudge.

    Departure: the target pulls with the force of the loss at the feedforward output, and does not
    clamp: a clamped output spreads its error over all layers, and its gradient has a limit other
    than backpropagation's.

    Args:
        nudge: strength of the pull to the target, positive.
        sweeps: of inference, at least 1.
        activation: of the hidden units, elementwise; the output is linear.

    Returns:
        A rule for `nets.mlp` weights; see `with_credit_rule`.

    Raises:
        ValueError: nudge or sweeps not positive.

    Reference: Whittington, Bogacz, "An approximation of the error backpropagation algorithm in a
    predictive coding network with local Hebbian synaptic plasticity", 2017.

    Example:
        >>> import jax
        >>> from metacontrast.nets import mlp
        >>> net = mlp(1, 3, 2, 1)
        >>> phi, x = net.init(jax.random.key(0)), jnp.ones(1)
        >>> slope = lambda f: jax.grad(lambda phi: f(phi, x)[0])(phi).layers[0].weight[0, 0]
        >>> bool(abs(slope(predictive_coding(1e-3)) - slope(net.apply)) < 1e-3)
        True
    """

    def backward(phi: PyTree, x: Vector, error: Vector, key: Key | None) -> PyTree:
        net = layers(phi)
        errors = [jnp.zeros_like(b) for _, b in net]
        for _ in range(sweeps):
            inputs, sums = forward(net, x, activation, errors)
            errors = [-nudge * error]
            for (w, _), a in zip(reversed(net[1:]), reversed(sums[:-1]), strict=True):
                errors.insert(0, slope(activation, a, matmul(w.T, errors[0])))
        return local(phi, [-eps / nudge for eps in errors], inputs)

    return credit_rule(lambda phi, x: output(phi, x, activation), backward)
