"""Slow weights with fast gains, shifts and head: identity, and the contrast against exact ones."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import EPS, meta_grad, newton, relative_error

import metacontrast as mc
from metacontrast.nets import conv4, mlp, net

NET = mlp(1, 4, 2, 1)
KEY = jax.random.key(0)


def double(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), tree)


def residual(phi, theta, example):
    return NET.apply(mc.modulated(phi, theta["slow"]), example.x) - example.y


PROBLEM = mc.Problem(
    init=lambda theta, task: mc.modulation(theta["slow"]),
    inner=mc.LeastSquares(
        residual,
        lambda task: task.train,
        lambda theta: (mc.modulation(theta["slow"]), theta["log_lam"]),
    ),
    outer=mc.LeastSquares(residual, lambda task: task.test),
)


def converged(loss, phi0):
    """Gauss-Newton from afar, Newton to round-off."""
    return newton(4)(loss, mc.gauss_newton(30)(loss, phi0).phi)


def drawn(seed=0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-2, 2, (2, 5, 1))
    task = mc.Task(mc.Data(x[0], np.sin(x[0])), mc.Data(x[1], np.sin(x[1])))
    slow = double(NET.init(jax.random.key(seed)))
    return {"slow": slow, "log_lam": jnp.array(-1.0)}, jax.tree.map(jnp.asarray, task)


def test_gains_of_one_and_shifts_of_zero_are_the_network_itself():
    weights = NET.init(KEY)
    same = mc.modulated(mc.modulation(weights), weights)
    jax.tree.map(np.testing.assert_array_equal, same, weights)


@pytest.mark.parametrize("norm", ["batch", None])
def test_convolutional_networks_too(norm):
    conv = conv4(2, size=16, classes=3, norm=norm)
    weights = double(conv.init(KEY))
    phi = mc.modulation(weights)
    jax.tree.map(np.testing.assert_array_equal, mc.modulated(phi, weights), weights)
    # The last convolution's gain and shift, by hand: on what comes out of it before the ReLU.
    moved = phi._replace(
        gain=[*phi.gain[:3], 1.5 * phi.gain[3]], shift=[*phi.shift[:3], phi.shift[3] + 0.25]
    )
    x = jax.random.normal(KEY, (6, 16, 16, 1), jnp.float64)
    wide = mc.modulated(moved, weights)
    name, shift = ("w", "b") if norm is None else ("gain", "shift")
    np.testing.assert_array_equal(wide[3][name], 1.5 * weights[3][name])
    np.testing.assert_array_equal(wide[3][shift], weights[3][shift] + 0.25)
    difference = conv.apply(wide, x) - conv.apply(weights, x)
    assert float(jnp.abs(difference).max()) > 1e-3


def test_a_neuron_is_scaled_and_shifted_before_its_activation():
    weights = double(mlp(2, 3, 1, 1).init(KEY))
    rng = np.random.default_rng(0)
    gain, shift, x = rng.normal(size=(3,)), rng.normal(size=(3,)), rng.normal(size=(2,))
    phi = mc.modulation(weights)._replace(gain=[jnp.asarray(gain)], shift=[jnp.asarray(shift)])
    found = mlp(2, 3, 1, 1).apply(mc.modulated(phi, weights), jnp.asarray(x))
    first, head = weights.layers
    hidden = np.tanh(gain * (np.asarray(first.weight) @ x) + first.bias + shift)
    # Sums of three products of order one.
    np.testing.assert_allclose(found, head.weight @ hidden + head.bias, rtol=0, atol=100 * EPS)


@pytest.fixture(scope="module")
def exact():
    theta, task = drawn()
    loss = PROBLEM.loss(theta, task)
    phi = jax.jit(lambda phi: converged(loss, phi))(mc.modulation(theta["slow"]))
    size = float(optax.tree.norm(phi))
    # Newton's last step is below round-off where the gradient is: |g| of the order of eps |phi|.
    assert float(optax.tree.norm(jax.grad(loss)(phi))) < 1e4 * EPS * size
    return theta, task, phi, grad_by(mc.Implicit("exact"), theta, task)


def grad_by(estimator, theta, task):
    return jax.jit(lambda theta: meta_grad(PROBLEM, converged, estimator, theta, task))(theta)


def test_the_contrast_is_the_implicit_gradient_at_convergence(exact):
    theta, task, _, right = exact
    errors = [
        relative_error(grad_by(mc.Contrastive(beta, "symmetric"), theta, task), right)
        for beta in (1e-2, 1e-3)
    ]
    # Second order in beta; round-off over beta (1e-12 or so) is far below.
    assert errors[1] < 1e-4
    assert errors[1] / errors[0] == pytest.approx(1e-2, rel=0.1)


def test_unrolling_agrees(exact):
    theta, task, _, right = exact
    # Round-off in solves of condition below 1e4.
    assert relative_error(grad_by(mc.Unrolled(), theta, task), right) < 1e6 * EPS


def test_slow_weights_act_through_both_phases(exact):
    theta, task, free, right = exact
    beta = 1e-4
    nudged = jax.jit(lambda phi: converged(PROBLEM.loss(theta, task, beta), phi))(free)
    at = lambda phi, b: jax.grad(lambda theta: PROBLEM.loss(theta, task, b)(phi))(theta)
    contrast = jax.tree.map(lambda b, a: (b - a) / beta, at(nudged, beta), at(free, 0.0))
    found = grad_by(mc.Contrastive(beta), theta, task)
    assert relative_error(found, contrast) < 1e4 * EPS / beta
    assert relative_error(found, right) < 100 * beta  # first order
    # What theta does to the nudge alone is another gradient altogether.
    direct = jax.grad(PROBLEM.outer, argnums=1)(free, theta, task)
    assert relative_error(direct, right) > 0.1


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
        mc.modulation(weights)


def test_gains_of_another_network_are_refused():
    weights = NET.init(KEY)
    phi = mc.modulation(weights)
    with pytest.raises(ValueError, match="phi: holds gains of 1 layers"):
        mc.modulated(phi._replace(gain=phi.gain[:1]), weights)
