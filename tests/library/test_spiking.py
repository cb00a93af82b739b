"""Spiking networks and e-prop, against autodiff with the paths cut that e-prop does not follow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import EPS, relative_error

from metacontrast.credit import eprop
from metacontrast.nets import Response, Spiking, Weights, fast_sigmoid, triangle
from metacontrast.nets._spiking import low_pass, low_pass_back
from metacontrast.tasks import population

T = 10
# Gains at which neurons drive each other, so that the paths that e-prop cuts matter.
NET = Spiking(inputs=6, neurons=5, outputs=2, gains=(0.3, 0.3, 0.5))


def example(net=NET, batch=()):
    phi = net.init(jax.random.key(0))
    x = jax.random.bernoulli(jax.random.key(1), 0.3, (*batch, T, net.inputs)).astype(float)
    y = jax.random.normal(jax.random.key(2), (*batch, T, net.outputs))
    return phi, x, y


def loss(apply, phi, x, y):
    """Squares at each step, and a cost of the rate: both ways in which a spike is judged."""
    response = apply(phi, x)
    return jnp.sum((response.readout - y) ** 2) + 0.7 * jnp.sum((response.rate - 0.2) ** 2)


def by_hand(net, phi, x, cut=False, feedback=None):
    """The network, step by step, as its docstring has it; cut: no gradient from spike to spike."""
    v = z = jnp.zeros(net.neurons)
    o, p = jnp.zeros(net.outputs), jnp.zeros(net.outputs)
    readouts, spikes = [], []
    for x_t in x:
        heard = jax.lax.stop_gradient(z) if cut else z
        v = net.alpha * v + phi.inputs @ x_t + phi.recurrent @ heard
        v = v - net.threshold * jax.lax.stop_gradient(z)
        z = net.fire(v)
        o = net.kappa * o + phi.readout @ z
        if feedback is not None:  # the value of W_out z, the gradient by z of B z
            fixed = jax.lax.stop_gradient(z)
            p = net.kappa * p + phi.readout @ fixed + feedback @ (z - fixed)
        readouts.append(o if feedback is None else p)
        spikes.append(z)
    return Response(jnp.stack(readouts), jnp.mean(jnp.stack(spikes), 0))


def grad(apply, phi, x, y):
    return jax.jit(jax.grad(lambda phi: loss(apply, phi, x, y)))(phi)


def close(a, b):
    # Some 4 T roundings a term, in sums whose terms may cancel a hundredfold.
    assert relative_error(a, b) < 100 * 4 * T * EPS


@pytest.mark.parametrize("surrogate", [triangle, fast_sigmoid])
def test_the_network_is_its_equations_in_value_and_derivative(surrogate):
    net = Spiking(6, 5, 2, surrogate, gains=NET.gains)
    phi, x, y = example(net)
    assert 0.02 < float(net.apply(phi, x).rate.mean()) < 0.9
    close(net.apply(phi, x), by_hand(net, phi, x))
    close(grad(net.apply, phi, x, y), grad(lambda *a: by_hand(net, *a), phi, x, y))


@pytest.mark.parametrize("online", [False, True])
@pytest.mark.parametrize("surrogate", [triangle, fast_sigmoid])
def test_eprop_is_the_gradient_without_the_paths_from_spike_to_spike(surrogate, online):
    net = Spiking(6, 5, 2, surrogate, gains=NET.gains)
    phi, x, y = example(net)
    rule = eprop(net, online=online)
    np.testing.assert_array_equal(rule(phi, x).readout, net.apply(phi, x).readout)
    found = grad(rule, phi, x, y)
    close(found, grad(lambda *a: by_hand(net, *a, cut=True), phi, x, y))
    # And these paths are there: the whole gradient is another, far beyond round-off.
    assert relative_error(found.inputs, grad(net.apply, phi, x, y).inputs) > 1e-6


@pytest.mark.parametrize("online", [False, True])
def test_eprop_with_random_feedback_is_the_gradient_through_that_feedback(online):
    phi, x, y = example()
    b = jax.random.normal(jax.random.key(3), (2, 5))
    found = grad(eprop(NET, b, online), phi, x, y)
    close(
        found,
        grad(lambda *a: by_hand(NET, *a, cut=True, feedback=b), phi, x, y)._replace(
            readout=found.readout
        ),
    )
    # The readout hears its own error, whatever the feedback.
    close(found.readout, grad(eprop(NET), phi, x, y).readout)


def test_without_recurrent_weights_eprop_is_backpropagation_through_time():
    phi, x, y = example()
    phi = phi._replace(recurrent=jnp.zeros_like(phi.recurrent))
    found, exact = grad(eprop(NET), phi, x, y), grad(NET.apply, phi, x, y)
    close(found, exact)  # by W_rec too: a change of it is felt at once, and at zero no further


@pytest.mark.parametrize("online", [False, True])
def test_a_batch_has_the_sum_of_the_gradients_of_its_examples(online):
    phi, x, y = example(batch=(2, 3))
    rule = eprop(NET, online=online)
    one = jax.jit(jax.grad(lambda phi, x, y: loss(rule, phi, x, y)))
    each = [one(phi, x[i, j], y[i, j]) for i in range(2) for j in range(3)]
    close(grad(rule, phi, x, y), jax.tree.map(lambda *leaves: sum(leaves), *each))
    batched = grad(lambda phi, x: jax.vmap(lambda x: rule(phi, x))(x), phi, x, y)
    close(batched, grad(rule, phi, x, y))


def test_the_cost_of_the_rate_alone():
    phi, x, _ = example()
    rate = lambda apply: jax.grad(lambda phi: jnp.sum((apply(phi, x).rate - 0.2) ** 2))(phi)
    found = rate(eprop(NET))
    close(found, rate(eprop(NET, online=True)))
    # By hand: 2 (r_j - 0.2) mean_t psi_j(t) xbar_i(t), not low-passed by the readout.
    v, z = NET.run(phi, x)
    psi = NET.psi(v - NET.threshold)
    expected = 2 * (z.mean(0) - 0.2)[:, None] * (psi.T @ low_pass(NET.alpha, x)) / T
    np.testing.assert_allclose(found.inputs, expected, rtol=100 * T * EPS)
    assert not found.readout.any()


def test_online_memory_does_not_grow_with_the_number_of_steps():
    """What is kept from the forward to the backward pass: weights and input, no states."""
    phi = NET.init(jax.random.key(0))

    def kept(online, steps):
        x = jnp.ones((steps, NET.inputs))
        _, pull = jax.vjp(lambda phi: eprop(NET, online=online)(phi, x), phi)
        return sum(leaf.size for leaf in jax.tree.leaves(pull) if hasattr(leaf, "size")) - x.size

    assert kept(True, 40) == kept(True, 20)
    assert kept(False, 40) - kept(False, 20) == 2 * 20 * NET.neurons  # v and z


def test_low_pass_and_its_transpose():
    x, y = jax.random.normal(jax.random.key(0), (2, T, 3))
    expected = [x[0]]
    for x_t in x[1:]:
        expected.append(0.9 * expected[-1] + x_t)
    np.testing.assert_allclose(low_pass(0.9, x), jnp.stack(expected), atol=10 * T * EPS)
    a, b = jnp.sum(low_pass(0.9, x) * y), jnp.sum(x * low_pass_back(0.9, y))
    np.testing.assert_allclose(a, b, atol=100 * T * EPS)


def test_the_first_weights_have_the_standard_deviations_of_their_gains():
    net = Spiking(inputs=200, neurons=100, outputs=50)
    weights = net.init(jax.random.key(0))
    assert isinstance(weights, Weights)
    for w, gain, fan_in in zip(weights, net.gains, (200, 100, 100), strict=True):
        # The standard deviation of n normal numbers is off by 1 / sqrt(2 n); five of them.
        spread = 5 / np.sqrt(2 * w.size)
        assert float(w.std()) == pytest.approx(gain * np.sqrt(2 / fan_in), rel=spread)


def test_a_population_spikes_as_often_as_its_tuning_curves_say():
    n, steps = 50, 400
    x = jnp.linspace(-5.0, 5.0, n)[:, None]
    spikes = population(jax.random.key(0), x, -5.0, 5.0, neurons=20, steps=steps, variance=1e-3)
    assert set(np.unique(spikes)) == {0.0, 1.0}
    u, centres = (np.asarray(x) + 5) / 10, np.linspace(0, 1, 20)
    p = np.exp(-((u - centres) ** 2) / 2e-3)
    # A mean of `steps` Bernoulli numbers: 5 standard deviations over 1000 of them, and a spare of
    # 1 / steps where p is so small that it is Poisson.
    bound = 5 * np.sqrt(p * (1 - p) / steps) + 5 / steps
    assert (np.abs(spikes.mean(1) - p) <= bound).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Spiking(2, 3, 1, alpha=1.0), "alpha: must be at least 0 and below 1, not 1.0"),
        (lambda: Spiking(2, 3, 1, kappa=-0.1), "kappa: must be at least 0"),
        (lambda: Spiking(2, 3, 1, threshold=0.0), "threshold: must be positive"),
        (lambda: NET.apply(example()[0], jnp.ones(6)), r"x: must be spikes of shape \(..., T, 6\)"),
        (lambda: eprop(NET, jnp.ones((5, 2))), r"feedback: must have shape \(2, 5\)"),
        (lambda: population(jax.random.key(0), jnp.ones(3), 0.0, 1.0), "x: must have shape"),
        (lambda: population(jax.random.key(0), jnp.ones((3, 1)), 1.0, 1.0), "high: must be above"),
        (
            lambda: population(jax.random.key(0), jnp.ones((3, 1)), 0.0, 1.0, neurons=1),
            "neurons: at least 2",
        ),
        (
            lambda: population(jax.random.key(0), jnp.ones((3, 1)), 0.0, 1.0, variance=0.0),
            "variance: must be positive",
        ),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
