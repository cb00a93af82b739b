"""Slow weights with fast gains, shifts and head: identity, and the contrast against exact ones."""

from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import EPS, relative_error

import metacontrast as mc
from metacontrast._loss import OuterNudge
from metacontrast.nets import conv4, mlp, net
from metacontrast.slow import modulated, modulation

NET = mlp(1, 3, 2, 1)
KEY = jax.random.key(0)


def double(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), tree)


def residual(phi, theta, example):
    return NET.apply(modulated(phi, theta["slow"]), example.x) - example.y


PROBLEM = mc.Problem(
    init=lambda theta, task: modulation(theta["slow"]),
    inner=mc.LeastSquares(
        residual,
        lambda task: task.train,
        lambda theta: mc.Synapse(modulation(theta["slow"]), theta["log_lam"]),
    ),
    outer=mc.LeastSquares(residual, lambda task: task.test),
)
CONVERGED = mc.gauss_newton(40)


@cache
def example():
    rng = np.random.default_rng(0)
    x = rng.uniform(-2, 2, (2, 5, 1))
    task = mc.Task(mc.Data(x[0], np.sin(x[0])), mc.Data(x[1], np.sin(x[1])))
    slow = double(jax.jit(NET.init)(KEY))
    return {"slow": slow, "log_lam": jnp.array(2.0)}, jax.tree.map(jnp.asarray, task)


@cache
def meta(make):
    """`beta -> MetaGradient`, compiled once for all betas."""

    @jax.jit
    def run(beta, theta, task):
        return mc.meta_gradient(PROBLEM, CONVERGED, make(beta), by_z=False)(theta, task)

    return lambda beta: run(beta, *example())


def symmetric(beta):
    return mc.Contrastive(beta, "symmetric")


@cache
def exact():
    result = meta(lambda beta: mc.Implicit("exact"))(0.0)
    # The last steps are below round-off where the gradient is: of the order of eps |phi|.
    assert result.aux["residual"] < 1e4 * EPS * optax.tree.norm(result.phases.free.phi)
    return result.by_theta


def test_gains_of_one_and_shifts_of_zero_are_the_network_itself():
    weights = NET.init(KEY)
    same = modulated(modulation(weights), weights)
    jax.tree.map(np.testing.assert_array_equal, same, weights)


@pytest.mark.parametrize("norm", ["batch", None])
def test_convolutional_networks_too(norm):
    conv = conv4(2, strided=True, size=16, classes=3, norm=norm)
    # Biases and shifts are drawn as zero, of which nothing could be lost.
    weights = jax.tree.map(lambda leaf: leaf + 0.1, double(jax.jit(conv.init)(KEY)))
    phi = modulation(weights)
    jax.tree.map(np.testing.assert_array_equal, modulated(phi, weights), weights)
    # The last convolution's gain and shift, by hand: on what comes out of it before the ReLU.
    moved = phi._replace(
        gain=[*phi.gain[:3], 1.5 * phi.gain[3]], shift=[*phi.shift[:3], phi.shift[3] + 0.25]
    )
    wide = modulated(moved, weights)
    name, shift = ("w", "b") if norm is None else ("gain", "shift")
    np.testing.assert_array_equal(wide[3][name], 1.5 * weights[3][name])
    np.testing.assert_array_equal(wide[3][shift], weights[3][shift] + 0.25)
    x = jax.random.normal(KEY, (6, 16, 16, 1), jnp.float64)
    apply = jax.jit(conv.apply)
    difference = apply(wide, x) - apply(weights, x)
    assert float(jnp.abs(difference).max()) > 1e-3


def test_a_neuron_is_scaled_and_shifted_before_its_activation():
    small = mlp(2, 3, 1, 1)
    weights = double(small.init(KEY))
    rng = np.random.default_rng(0)
    gain, shift, x = rng.normal(size=(3,)), rng.normal(size=(3,)), rng.normal(size=(2,))
    phi = modulation(weights)._replace(gain=[jnp.asarray(gain)], shift=[jnp.asarray(shift)])
    output = small.apply(modulated(phi, weights), jnp.asarray(x))
    first, last = weights.layers
    hidden = np.tanh(gain * (np.asarray(first.weight) @ x) + first.bias + shift)
    # Sums of three products of order one.
    np.testing.assert_allclose(output, last.weight @ hidden + last.bias, rtol=0, atol=100 * EPS)


def test_the_contrast_is_the_implicit_gradient_at_convergence():
    errors = [relative_error(meta(symmetric)(beta).by_theta, exact()) for beta in (1e-2, 1e-3)]
    # Second order in beta; round-off over beta (1e-12 or so) is far below.
    assert errors[1] < 1e-4
    assert errors[1] / errors[0] == pytest.approx(1e-2, rel=0.1)


def test_slow_weights_act_through_both_phases():
    beta = 1e-4
    theta, task = example()
    result = meta(symmetric)(beta)
    free = mc.Loss(PROBLEM, theta, task)
    at = jax.jit(
        lambda phi, b: jax.grad(
            lambda theta: mc.Loss(PROBLEM, theta, task, nudge=OuterNudge(b))(phi)
        )(theta)
    )
    behind, ahead = (
        at(start.phi, b) for start, b in zip(result.phases.nudged, (-beta, beta), strict=True)
    )
    contrast = jax.tree.map(lambda b, a: (b - a) / (2 * beta), ahead, behind)
    assert relative_error(result.by_theta, contrast) < 1e4 * EPS / beta
    # What theta does to the nudge alone is another gradient altogether.
    phi = result.phases.free.phi
    direct = jax.grad(free.problem.outer, argnums=1)(phi, theta, task)
    assert relative_error(direct, exact()) > 0.1


@pytest.mark.parametrize(
    "weights",
    [
        {"w": jnp.ones(3)},
        [{"w": jnp.ones((2, 2))}, {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}],
        net(lambda key: eqx.nn.MLP(1, 1, 4, 1, use_bias=False, key=key)).init(KEY),
        net(lambda key: eqx.nn.MLP(1, 1, 4, 0, key=key)).init(KEY),
    ],
)
def test_other_networks_are_refused(weights):
    with pytest.raises(ValueError, match="weights: must be those of"):
        modulation(weights)


def test_gains_of_another_network_are_refused():
    weights = NET.init(KEY)
    phi = modulation(weights)
    with pytest.raises(ValueError, match="phi: holds gains of 1 layers"):
        modulated(phi._replace(gain=phi.gain[:1]), weights)
