"""Optimisers that ask for the value, the gradient or the function: in phases and around them."""

import warnings

import jax
import jax.numpy as jnp
import optax
import pytest

import metacontrast as mc
from metacontrast.train import meta_train

# phi = (z + theta) / 2, so that the meta-gradient is phi - 1.
PROBLEM = mc.Problem(
    init=lambda theta, z: jnp.zeros(()),
    inner=lambda phi, theta, z: (phi - z) ** 2 + (phi - theta) ** 2,
    outer=lambda phi, theta, z: (phi - 1.0) ** 2,
)
THETA, Z = jnp.array(1.0), jnp.array(3.0)
RULE = mc.Contrastive(0.01, "symmetric")
OPTIMIZERS = {
    "polyak_sgd": optax.polyak_sgd(0.1),
    "reduce_on_plateau": optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau()),
    "lbfgs": optax.lbfgs(),
    "backtracking": optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(10)),
}


@pytest.mark.parametrize("solver", ["descend", "until_converged"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_within_phases_the_gradient_is_right(name, solver):
    make = {
        "descend": lambda optimizer: mc.descend(optimizer, 100),
        "until_converged": lambda optimizer: mc.until_converged(optimizer, 1e-6, 200),
    }[solver]
    meta = jax.jit(mc.meta_gradient(PROBLEM, make(OPTIMIZERS[name]), RULE, by_z=False))(THETA, Z)
    # The scheme errs by beta^2; the rest is what phases left undone, as their rates fall.
    assert abs(float(meta.by_theta) - 1) < 1e-3 + float(meta.aux["linear_residual"]) < 0.01
    assert meta.aux["flags"].raised() == []


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_around_them_two_meta_steps_lower_the_meta_loss(name):
    solver = mc.descend(optax.sgd(0.25), 20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained = meta_train(
            PROBLEM, solver, RULE, lambda key: Z, THETA, OPTIMIZERS[name],
            steps=2, tasks=1, seed=0, log_every=2, steps_per_dispatch=2, progress=False,
        )  # fmt: skip
    value = lambda theta: ((Z + theta) / 2 - 1) ** 2
    assert value(trained.theta) < value(THETA)
