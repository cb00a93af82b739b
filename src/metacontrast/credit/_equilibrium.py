"""Equilibrium propagation: the network's own contrast, of two nudged equilibria."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import jax
import jax.numpy as jnp

from .._must import Count, Must, Positive
from .._precision import matmul
from .._types import Key, PyTree
from ._layers import Activation, Layers, States, Vector, layers, local
from ._rule import Apply, Rule, credit_rule

Gamma: TypeAlias = Annotated[float, Must("in (0, 1]", lambda g: 0 < g <= 1)]


def equilibrium(gamma: Gamma, sweeps: Count = 6, activation: Activation = jnp.tanh) -> Apply:
    """A network with feedback by its own weights, of strength gamma: its output at equilibrium.

        E(s) = sum_l gamma^(l-1) [ G_l(s_l) - s_l . (W_l s_(l-1) + b_l) ],   s_0 = x,
        dE/ds = 0:   s_l = f(W_l s_(l-1) + b_l + gamma W_(l+1)' s_(l+1)),   the last f linear,

    with G_l the integral of the inverse of f. A Hopfield network at gamma = 1; its function is
    another than the feedforward network's of the same weights, which it becomes as gamma -> 0.

    Departure: one layer after another takes the state that its neighbours ask for, upwards, from
    the feedforward state; each sweep contracts the distance to equilibrium by about `gamma |W|^2`.

    Args:
        gamma: strength of feedback, in (0, 1].
        sweeps: at least 1; the first is the feedforward pass.
        activation: of the hidden units, elementwise and increasing; the output is linear.

    Returns:
        `apply(phi, x) -> output`, for `nets.mlp` weights. JAX differentiates it exactly (through
        the sweeps).

    Raises:
        ValueError: gamma outside (0, 1], sweeps not positive.

    Example:
        >>> from metacontrast.nets import mlp
        >>> net = mlp(1, 3, 2, 1)
        >>> phi, x = net.init(jax.random.key(0)), jnp.ones(1)
        >>> far, near = (abs(equilibrium(g)(phi, x) - net.apply(phi, x))[0] for g in (0.1, 0.01))
        >>> bool(near < 0.2 * far)
        True
    """

    def apply(phi: PyTree, x: Vector) -> Vector:
        return _free(layers(phi), x, gamma, sweeps, activation)[-1]

    return apply


def equilibrium_propagation(
    beta: Positive, gamma: Gamma, sweeps: Count = 6, activation: Activation = jnp.tanh
) -> Rule:
    """Equilibrium propagation: `equilibrium`, nudged a little either way, and contrasted.

        dL/dW_l = [ dE/dW_l(s_beta) - dE/dW_l(s_-beta) ] / (2 beta gamma^(L-1)),
        dE/dW_l = -gamma^(l-1) s_l s_(l-1)',   s_b the equilibrium of E + b gamma^(L-1) error . s_L.

    The gradient of the equilibrium's loss up to `O(beta^2)`, and to how well that is reached. The
    same rule as `Contrastive(scheme="symmetric")`, one level down: contrast within contrast.

    Departure: the nudge is the force of the loss at the free equilibrium, held while nudged.

    Args:
        beta: the nudge, positive: how far the output is moved for an error of one.
        gamma: strength of feedback, in (0, 1]. What the nudge does l layers down is of size
            gamma^l, so a small gamma asks for precise numbers.
        sweeps: upwards, of the free phase; half as many, down and up, of each nudged one.
        activation: of the hidden units, elementwise and increasing; the output is linear.

    Returns:
        A rule for `nets.mlp` weights whose network is `equilibrium(gamma, sweeps)`; see
        `with_credit_rule`.

    Raises:
        ValueError: beta not positive, gamma outside (0, 1], sweeps not positive.

    Reference: Scellier, Bengio, "Equilibrium propagation", 2017; symmetric nudges: Laborieux et
    al., "Scaling equilibrium propagation to deep ConvNets", 2021.

    Example:
        >>> from metacontrast.nets import mlp
        >>> phi, x = mlp(1, 3, 2, 1).init(jax.random.key(0)), jnp.ones(1)
        >>> slope = lambda f: jax.grad(lambda phi: f(phi, x)[0])(phi).layers[0].weight[0, 0]
        >>> rule, exact = equilibrium_propagation(0.1, 0.5, 20), equilibrium(0.5, 20)
        >>> bool(abs(slope(rule) - slope(exact)) < 1e-3)
        True
    """

    def backward(phi: PyTree, x: Vector, error: Vector, key: Key | None) -> PyTree:
        net = layers(phi)
        free = _free(net, x, gamma, sweeps, activation)
        ends = [_nudged(net, x, free, b * error, gamma, sweeps, activation) for b in (beta, -beta)]
        scales = [-(gamma ** (i + 1 - len(net))) / (2 * beta) for i in range(len(net))]
        up, down = (
            local(phi, [c * a for c, a in zip(scales, s, strict=True)], [x, *s[:-1]]) for s in ends
        )
        return jax.tree.map(jnp.subtract, up, down)

    return credit_rule(equilibrium(gamma, sweeps, activation), backward)


def _stationary(
    net: Layers, x: Vector, s: States, i: int, pull: Vector, gamma: float, f: Activation
) -> Vector:
    """The state of layer `i` that the states of its neighbours ask for."""
    w, b = net[i]
    a = matmul(w, x if i == 0 else s[i - 1]) + b
    return a - pull if i == len(net) - 1 else f(a + gamma * matmul(net[i + 1][0].T, s[i + 1]))


def _free(net: Layers, x: Vector, gamma: float, sweeps: int, f: Activation) -> States:
    s = [jnp.zeros_like(b) for _, b in net]
    for _ in range(sweeps):
        for i in range(len(net)):
            s[i] = _stationary(net, x, s, i, jnp.zeros_like(s[-1]), gamma, f)
    return s


def _nudged(
    net: Layers,
    x: Vector,
    free: States,
    pull: Vector,
    gamma: float,
    sweeps: int,
    f: Activation,
) -> States:
    s, last = list(free), len(net) - 1
    # Down first: one sweep brings the nudge to every layer.
    for _ in range(-(-sweeps // 2)):
        for i in [*range(last, -1, -1), *range(1, last + 1)]:
            s[i] = _stationary(net, x, s, i, pull, gamma, f)
    return s
