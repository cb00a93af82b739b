"""Spiking networks and e-prop, against autodiff with the paths cut that e-prop does not follow."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import EPS, relative_error

from metacontrast.credit import eprop
from metacontrast.nets import Response, Spiking, Weights, fast_sigmoid
from metacontrast.nets._spiking import low_pass, low_pass_back
from metacontrast.tasks import population

T = 8
# Gains at which neurons drive each other, so that the paths that e-prop cuts matter.
NET = Spiking(inputs=6, neurons=5, outputs=2, gains=(0.3, 0.3, 0.5))
NETS = {
    "triangle": NET,
    "fast sigmoid": Spiking(6, 5, 2, fast_sigmoid, gains=NET.gains),
}
FEEDBACK = jax.random.normal(jax.random.key(3), (2, 5))


@cache
def example(batch=()):
    phi = jax.jit(NET.init)(jax.random.key(0))
    x = jax.random.bernoulli(jax.random.key(1), 0.3, (*batch, T, NET.inputs)).astype(float)
    y = jax.random.normal(jax.random.key(2), (*batch, T, NET.outputs))
    return phi, x, y


def loss(apply, phi, x, y):
    """Squares at each step, and a cost of the rate: both ways in which a spike is judged."""
    response = apply(phi, x)
    return jnp.sum((response.readout - y) ** 2) + 0.7 * jnp.sum((response.rate - 0.2) ** 2)


def by_hand(net, phi, x, cut=False, feedback=None):
    """The network, step by step, as its docstring has it; cut: no gradient from spike to spike."""

    def step(carry, x_t):
        v, z, o = carry
        presynaptic = jax.lax.stop_gradient(z) if cut else z
        v = net.alpha * v + phi.inputs @ x_t + phi.recurrent @ presynaptic
        v = v - net.threshold * jax.lax.stop_gradient(z)
        z = net.fire(v)
        fixed = jax.lax.stop_gradient(z)
        # With feedback: the value of W_out z, the gradient by z of B z.
        drive = phi.readout @ z
        drive = drive if feedback is None else phi.readout @ fixed + feedback @ (z - fixed)
        o = net.kappa * o + drive
        return (v, z, o), (o, z)

    rest = (jnp.zeros(net.neurons), jnp.zeros(net.neurons), jnp.zeros(net.outputs))
    readout, spikes = jax.lax.scan(step, rest, x)[1]
    return Response(readout, jnp.mean(spikes, 0))


@cache
def gradients(name):
    """`(phi, x, y) -> gradients` by all networks and rules of one surrogate, compiled at once."""
    net = NETS[name]
    networks = {
        "whole": net.apply,
        "by hand": partial(by_hand, net),
        "cut": partial(by_hand, net, cut=True),
        "fed back": partial(by_hand, net, cut=True, feedback=FEEDBACK),
    }
    for online in (False, True):
        networks[f"eprop {online}"] = eprop(net, online=online)
        networks[f"random {online}"] = eprop(net, FEEDBACK, online)
    grad = lambda apply: jax.grad(partial(loss, apply))
    return jax.jit(lambda phi, x, y: {k: grad(apply)(phi, x, y) for k, apply in networks.items()})


def close(a, b):
    # Some 4 T roundings a term, in sums whose terms may cancel a hundredfold.
    assert relative_error(a, b) < 100 * 4 * T * EPS


@pytest.mark.parametrize("name", NETS)
def test_the_network_is_its_equations_in_value_and_derivative(name):
    phi, x, y = example()
    response = jax.jit(NETS[name].apply)(phi, x)
    assert 0.02 < float(response.rate.mean()) < 0.9
    close(response, jax.jit(partial(by_hand, NETS[name]))(phi, x))
    grads = gradients(name)(phi, x, y)
    close(grads["whole"], grads["by hand"])


@pytest.mark.parametrize("online", [False, True])
@pytest.mark.parametrize("name", NETS)
def test_eprop_is_the_gradient_without_the_paths_from_spike_to_spike(name, online):
    phi, x, y = example()
    rule = eprop(NETS[name], online=online)
    by_rule, exact = jax.jit(lambda: [apply(phi, x) for apply in (rule, NETS[name].apply)])()
    np.testing.assert_array_equal(by_rule.readout, exact.readout)
    grads = gradients(name)(phi, x, y)
    close(grads[f"eprop {online}"], grads["cut"])
    # And these paths are there: the whole gradient is another, far beyond round-off.
    assert relative_error(grads[f"eprop {online}"].inputs, grads["whole"].inputs) > 1e-6


@pytest.mark.parametrize("online", [False, True])
def test_eprop_with_random_feedback_is_the_gradient_through_that_feedback(online):
    grads = gradients("triangle")(*example())
    by_rule = grads[f"random {online}"]
    close(by_rule, grads["fed back"]._replace(readout=by_rule.readout))
    # The readout has its own error, whatever the feedback.
    close(by_rule.readout, grads[f"eprop {online}"].readout)


def test_without_recurrent_weights_eprop_is_backpropagation_through_time():
    phi, x, y = example()
    phi = phi._replace(recurrent=jnp.zeros_like(phi.recurrent))
    grads = gradients("triangle")(phi, x, y)
    # By W_rec too: a change of it is felt at once, and at zero no further.
    close(grads["eprop False"], grads["whole"])


@pytest.mark.parametrize("online", [False, True])
def test_a_batch_has_the_sum_of_the_gradients_of_its_examples(online):
    phi, x, y = example(batch=(2, 2))
    rule = eprop(NET, online=online)
    single = gradients("triangle")
    each = [single(phi, x[i, j], y[i, j])[f"eprop {online}"] for i in range(2) for j in range(2)]

    @jax.jit
    def both(phi, x, y):
        mapped = lambda phi, x: jax.vmap(lambda x: rule(phi, x))(x)
        return [jax.grad(partial(loss, apply))(phi, x, y) for apply in (rule, mapped)]

    batched, mapped = both(phi, x, y)
    close(batched, jax.tree.map(lambda *leaves: sum(leaves), *each))
    close(mapped, batched)


def test_the_cost_of_the_rate_alone():
    phi, x, _ = example()
    square = lambda rule, phi: jnp.sum((rule(phi, x).rate - 0.2) ** 2)
    rules = [eprop(NET), eprop(NET, online=True)]
    run = jax.jit(lambda phi: [jax.grad(partial(square, rule))(phi) for rule in rules])
    by_rule, online = run(phi)
    close(by_rule, online)
    # By hand: 2 (r_j - 0.2) mean_t psi_j(t) xbar_i(t), not low-passed by the readout.
    v, z = jax.jit(NET.run)(phi, x)
    psi = NET.psi(v - NET.threshold)
    expected = 2 * (z.mean(0) - 0.2)[:, None] * (psi.T @ low_pass(NET.alpha, x)) / T
    np.testing.assert_allclose(by_rule.inputs, expected, rtol=100 * T * EPS)
    assert not by_rule.readout.any()


def test_online_memory_does_not_grow_with_the_number_of_steps():
    """What is kept from the forward to the backward pass: weights and input, no states."""
    phi = jax.eval_shape(NET.init, jax.random.key(0))

    def residuals(online, steps):
        x = np.ones((steps, NET.inputs))
        rule = eprop(NET, online=online)
        pull = jax.eval_shape(lambda phi, x: jax.vjp(lambda phi: rule(phi, x), phi)[1], phi, x)
        return sum(leaf.size for leaf in jax.tree.leaves(pull)) - x.size

    assert residuals(True, 40) == residuals(True, 20)
    assert residuals(False, 40) - residuals(False, 20) == 2 * 20 * NET.neurons  # v and z


def test_low_pass_and_its_transpose():
    x, y = np.random.default_rng(0).normal(size=(2, T, 3))
    forward, back = jax.jit(lambda x, y: (low_pass(0.9, x), low_pass_back(0.9, y)))(x, y)
    expected = [x[0]]
    for x_t in x[1:]:
        expected.append(0.9 * expected[-1] + x_t)
    np.testing.assert_allclose(forward, np.stack(expected), atol=10 * T * EPS)
    np.testing.assert_allclose(np.sum(forward * y), np.sum(x * back), atol=100 * T * EPS)


def test_the_first_weights_have_the_standard_deviations_of_their_gains():
    net = Spiking(inputs=200, neurons=100, outputs=50)
    weights = jax.jit(net.init)(jax.random.key(0))
    assert isinstance(weights, Weights)
    for w, gain, fan_in in zip(weights, net.gains, (200, 100, 100), strict=True):
        # The standard deviation of n normal numbers is off by 1 / sqrt(2 n); five of them.
        spread = 5 / np.sqrt(2 * w.size)
        assert np.std(np.asarray(w)) == pytest.approx(gain * np.sqrt(2 / fan_in), rel=spread)


def test_a_population_spikes_as_often_as_its_tuning_curves_say():
    n, steps = 50, 400
    x = np.linspace(-5.0, 5.0, n)[:, None]
    encode = partial(population, low=-5.0, high=5.0, neurons=20, steps=steps, variance=1e-3)
    spikes = np.asarray(jax.jit(encode)(jax.random.key(0), x))
    assert set(np.unique(spikes)) == {0.0, 1.0}
    u, centres = (x + 5) / 10, np.linspace(0, 1, 20)
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
            "neurons: must be at least 2",
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
