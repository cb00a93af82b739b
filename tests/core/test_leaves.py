"""Leaves of theta and phi that are no arrays of JAX: taken where they can be, or named."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import relative_error

import metacontrast as mc

X = jax.random.normal(jax.random.key(0), (20, 2))
Y = X @ jnp.array([1.0, -2.0]) + 0.1 * jnp.sin(jnp.arange(20.0))
TASK = mc.Task(mc.Data(X[:10], Y[:10]), mc.Data(X[10:], Y[10:]))
SOLVER, RULE = mc.descend(optax.sgd(0.05), 50), mc.Contrastive(0.1, "symmetric")
RIDGE = mc.Problem(
    init=lambda theta, task: jnp.zeros(2),
    inner=lambda phi, theta, task: (
        jnp.mean((task.train.x @ phi - task.train.y) ** 2) + jnp.exp(theta["l"]) * jnp.sum(phi**2)
    ),
    outer=lambda phi, theta, task: jnp.mean((task.test.x @ phi - task.test.y) ** 2),
)
MLP = eqx.nn.MLP(2, "scalar", 8, 1, key=jax.random.key(1))
ARRAYS, STATIC = eqx.partition(MLP, eqx.is_inexact_array)


def misfit(net, data):
    return jnp.mean((jax.vmap(net)(data.x) - data.y) ** 2)


@pytest.mark.parametrize(
    ("leaf", "error", "words"),
    [
        ("ridge", TypeError, r"^theta: leaf \['other'\] is str, which is no array"),
        (jnp.tanh, TypeError, r"^theta: leaf \['other'\] is .*, which is no array"),
        (3, ValueError, r"^theta: leaf \['other'\] is int.*only floating leaves"),
    ],
    ids=["a string", "a function", "a whole number"],
)
def test_what_cannot_be_learned_is_named(leaf, error, words):
    with pytest.raises(error, match=words):
        mc.meta_loss(RIDGE, SOLVER, RULE)({"l": 0.0, "other": leaf}, TASK)


def test_a_module_with_its_functions_among_its_leaves_says_how_to_part_them():
    whole = mc.Problem(
        init=lambda theta, task: theta,
        inner=lambda phi, theta, task: misfit(phi, task.train),
        outer=lambda phi, theta, task: misfit(phi, task.test),
    )
    with pytest.raises(TypeError, match=r"^theta: leaf .*activation.*equinox\.partition"):
        mc.meta_loss(whole, SOLVER, RULE)(MLP, TASK)


def test_a_module_that_is_parted_is_learned():
    """Against the same network of plain arrays."""
    plain = [(layer.weight, layer.bias) for layer in MLP.layers]

    def predict(layers, x):
        (w, b), (v, c) = layers
        return (jax.nn.relu(x @ w.T + b[None]) @ v.T)[:, 0] + c[0]

    def problem(loss):
        return mc.Problem(
            init=lambda theta, task: theta,
            inner=lambda phi, theta, task: loss(phi, task.train) + mc.Synapse(theta).pull(phi),
            outer=lambda phi, theta, task: loss(phi, task.test),
        )

    module = problem(lambda phi, data: misfit(eqx.combine(phi, STATIC), data))
    arrays = problem(lambda phi, data: jnp.mean((predict(phi, data.x) - data.y) ** 2))
    found, expected = (
        jax.jit(jax.grad(mc.meta_loss(each, SOLVER, RULE)))(theta, TASK)
        for each, theta in ((module, ARRAYS), (arrays, plain))
    )
    found = [(layer.weight, layer.bias) for layer in found.layers]
    assert relative_error(found, expected) < 1e-9


@pytest.mark.parametrize("leaf", [0.0, np.float64(0.0), np.zeros(())], ids=repr)
def test_numbers_of_python_and_numpy_are_as_good(leaf):
    grad = jax.grad(mc.meta_loss(RIDGE, SOLVER, RULE))
    expected = grad({"l": jnp.zeros(())}, TASK)["l"]
    others = {"l": leaf, "none": None, "empty": jnp.zeros((0, 3))}
    found = grad(others, TASK)
    assert expected != 0 and found["l"] == pytest.approx(float(expected), rel=1e-9)
    assert found["none"] is None and found["empty"].shape == (0, 3)
