"""A function with its kinks held is the smooth continuation of one of its pieces."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metacontrast._held import held

AT, WAY = (jax.random.normal(jax.random.key(seed), (6, 4)) for seed in (0, 1))


def square(x):
    return jnp.sum(x**2)


def after(step):
    """Of a loop over rows that carries one and stacks others."""
    return lambda x: sum(map(square, jax.lax.scan(step, jnp.zeros(4), x, reverse=True)))


@jax.custom_jvp
def clipped(x):
    return jnp.maximum(x, 0.0)


# As of jax.nn.relu: a kink itself has the slope 0.
clipped.defjvp(lambda x, dx: (clipped(*x), jnp.where(x[0] > 0, dx[0], 0.0)))

# Squares of piecewise linear functions: on a piece, their gradient is linear.
KINKED = {
    "relu": lambda x: square(jax.nn.relu(x)),
    "relu6": lambda x: square(jax.nn.relu6(3 * x)),
    "leaky": lambda x: square(jax.nn.leaky_relu(x)),
    "abs": lambda x: square(jnp.abs(x) - 1),
    "max": lambda x: square(jnp.max(x, 1)),
    "pool": lambda x: square(
        jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (2, 2), (2, 2), "VALID")
    ),
    "sort": lambda x: square(jnp.sort(x, 1) * jnp.arange(4.0)[None]),
    "median": lambda x: square(jnp.median(x, 1)),
    "top": lambda x: square(jax.lax.top_k(x, 2)[0]),
    "chosen": lambda x: square(x[jnp.arange(6), jnp.argmax(x, 1)]),
    "clip": lambda x: square(jnp.clip(x, -0.5, 0.5) + x),
    "round": lambda x: square(x + jnp.round(x)),
    "carried": lambda x: (
        square(jax.lax.scan(lambda c, r: (jax.nn.relu(c + r - x[0]), None), x[1], x)[0]) / 9
    ),
    "scan": after(lambda c, row: (jax.nn.relu(c + row), jnp.abs(row) - c)),
    "cond": lambda x: jax.lax.cond(x[0, 0] > 0, KINKED["relu"], KINKED["abs"], x),
    "checkpoint": lambda x: square(jax.checkpoint(jax.nn.relu)(x)),
    "jit": lambda x: square(jax.jit(jax.nn.relu)(x)),
    "custom": lambda x: square(clipped(x)),
    "masked": lambda x: square(jnp.max(jnp.where(jnp.tri(6, 4, 2) > 0, x, -jnp.inf), 1)),
}


@pytest.mark.parametrize("name", KINKED)
def test_a_difference_over_any_way_is_the_second_derivative(name):
    f = KINKED[name]
    piece = held(f, AT)
    slope = jax.jit(jax.grad(piece))
    found = (slope(AT + WAY) - slope(AT - WAY)) / 2
    exact = jax.jvp(jax.grad(f), (AT,), (WAY,))[1]
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-13)
    np.testing.assert_allclose(piece(AT), f(AT), rtol=1e-15)
    np.testing.assert_allclose(slope(AT), jax.grad(f)(AT), rtol=1e-15)
    # Which those of f itself are not: there are kinks on the way.
    assert np.abs((jax.grad(f)(AT + WAY) - jax.grad(f)(AT - WAY)) / 2 - exact).max() > 0.1


@pytest.mark.parametrize("f", [jnp.tanh, jax.nn.softplus, jax.nn.softmax, jax.nn.gelu])
def test_what_is_smooth_stays_what_it_is(f):
    loss = lambda x: jnp.sum(jnp.sin(f(x)))
    np.testing.assert_allclose(held(loss, AT)(AT + WAY), loss(AT + WAY), rtol=1e-13)


def test_a_program_without_kinks_is_returned_as_it_is():
    assert held(square, AT) is square


def test_a_unit_at_its_kink_is_off():
    found = jax.grad(held(lambda x: jnp.sum(jax.nn.relu(x)), jnp.zeros(3)))(jnp.ones(3))
    np.testing.assert_array_equal(found, 0.0)


def test_what_is_stopped_stays():
    """As for a second derivative: the shift of a logsumexp, or a target that is not followed."""
    f = lambda x: square(x - jax.lax.stop_gradient(jax.nn.relu(x)))
    slope = jax.grad(held(f, AT))
    np.testing.assert_allclose(slope(AT + WAY) - slope(AT), 2 * WAY, atol=1e-14)
    smooth = lambda x: square(x - jax.lax.stop_gradient(jnp.tanh(x)))
    slope = jax.grad(held(smooth, AT))
    np.testing.assert_allclose(slope(AT + WAY) - slope(AT), 2 * WAY, atol=1e-14)
    assert jnp.isfinite(held(jax.nn.logsumexp, AT)(AT + 100 * WAY))


def test_trees_with_keys_and_counts():
    def loss(at):
        noise = jax.random.normal(at["key"], (6, 4))
        return jnp.sum(jax.nn.relu(at["x"] + noise) ** 2) * at["n"]

    at = {"x": AT, "key": jax.random.key(3), "n": jnp.arange(3)[2]}
    piece = held(loss, at)
    slope = jax.grad(lambda x: piece(at | {"x": x}))
    gate = AT + jax.random.normal(at["key"], (6, 4)) > 0
    np.testing.assert_allclose(slope(AT + WAY) - slope(AT), 4 * gate * WAY, atol=1e-13)


def test_what_no_program_shows_is_left_as_it_is():
    opaque = jax.custom_vjp(lambda x: jnp.sum(jax.nn.relu(x) ** 2))
    opaque.defvjp(lambda x: (opaque(x), x), lambda x, g: (2 * g * jax.nn.relu(x),))
    np.testing.assert_allclose(
        jax.grad(held(opaque, AT))(AT + WAY), 2 * jax.nn.relu(AT + WAY), rtol=1e-15
    )
