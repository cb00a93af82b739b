"""The ordered product of a layer: the same sums as `w @ x`, to every derivative, and in order."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from metacontrast.nets import mlp
from metacontrast.nets._product import product

KEY = jax.random.key(0)
# Sums of at most 8 terms of size one, in another order: some ten roundings.
CLOSE = {"rtol": 1e-13, "atol": 1e-13}


@pytest.mark.parametrize("shape", [(3, 4), (1, 4), (3, 1)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64, jnp.complex128])
def test_it_is_the_product(shape, dtype):
    rng = np.random.default_rng(0)
    real, imaginary = rng.normal(size=(2, *shape))
    w = jnp.asarray(real + 1j * imaginary if dtype == jnp.complex128 else real, dtype)
    x = rng.normal(size=shape[1:])
    result = product(w, x)
    assert result.dtype == jnp.result_type(dtype, jnp.float64)
    np.testing.assert_allclose(result, np.asarray(w) @ x, **CLOSE)


def test_derivatives_of_two_orders_in_both_modes():
    rng = np.random.default_rng(0)
    w, x = rng.normal(size=(3, 4)), rng.normal(size=(5, 4))
    mapped = jax.jit(lambda w, x: jnp.tanh(jax.vmap(product, (None, 0))(w, x)))
    check_grads(mapped, (w, x), order=2)


@pytest.mark.parametrize(("depth", "activation"), [(1, jnp.tanh), (2, jax.nn.relu)])
def test_a_network_is_equinox_own(depth, activation):
    net = mlp(2, 8, depth, 3, activation)
    phi, x = net.init(KEY), jax.random.normal(KEY, (6, 2))
    whole = eqx.nn.MLP(2, 3, 8, depth, activation, key=KEY)
    arrays, rest = eqx.partition(whole, eqx.is_inexact_array)
    theirs = lambda phi: jax.vmap(eqx.combine(phi, rest))(x)
    ours = lambda phi: jax.vmap(net.apply, (None, 0))(phi, x)
    assert jax.tree.structure(phi) == jax.tree.structure(arrays)
    jax.tree.map(np.testing.assert_array_equal, phi, arrays)
    both = lambda f, phi: (f(phi), jax.grad(lambda phi: jnp.sum(f(phi) ** 2))(phi))
    mine, other = jax.jit(lambda phi: [both(f, phi) for f in (ours, theirs)])(phi)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
    jax.tree.map(close, mine, other)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="an order for CPUs")
def test_compiled_products_of_mapped_tasks_are_in_order():
    """Over tasks and examples, both gradients are (.., rows, inner) times (.., inner, columns)."""
    w, x = jnp.ones((5, 8, 8)), jnp.ones((5, 6, 8))

    def gradients(product):
        loss = lambda w, x: jnp.sum(jnp.tanh(jax.vmap(product, (None, 0))(w, x)) ** 2)
        program = jax.jit(jax.vmap(jax.grad(loss, (0, 1)))).lower(w, x).compile().as_text()
        inner = r"lhs_contracting_dims=\{(\d)\}.*rhs_contracting_dims=\{(\d)\}"
        return re.findall(inner, program)

    assert gradients(product).count(("2", "1")) == 2
    assert gradients(jnp.matmul).count(("2", "1")) < 2
