"""Precision is chosen, not inherited: the library's own products have all of it on any machine."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from matrix_problem import TASKS, THETA, written
from precision import BITS, LOW, low_precision, precisions, rounded

import metacontrast as mc
from metacontrast.accuracy import quadratic_constants
from metacontrast.slow import HeadTheta, ridge_head, ridge_newton

HIGHEST = jax.lax.Precision.HIGHEST
# Losses without a product, so that all products are the library's.
PROBLEM = written(lambda phi, x: jnp.sum(phi * x))
THETA32, TASK32 = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), (THETA, TASKS["quadratic"]))
DESCENT = mc.descend(optax.sgd(0.1), 5)
LINEAR = mc.Contrastive(None, "symmetric", nudge="linear")
CASES = {
    "gauss_newton": (mc.gauss_newton(3), mc.Contrastive(0.1, "symmetric")),
    "newton_cg, natural beta": (mc.newton_cg(1e-3, 3), LINEAR),
    "closed_form": (mc.closed_form(), mc.Contrastive(0.1, "symmetric", order=4)),
    "anderson": (mc.anderson(0.1, 1e-3, 9), mc.Contrastive(0.1, control=True)),
    "lbfgs": (mc.lbfgs(1e-3, 9), mc.Contrastive(0.1)),
    "descend, damped": (DESCENT, mc.Contrastive(0.1, "symmetric", nudge="linear", damping=1.0)),
    "descend, holomorphic": (DESCENT, mc.Contrastive(0.1, "holomorphic")),
    "evolve": (mc.evolve(optax.sgd(0.1), 3, sigma=0.1, pairs=4), mc.Contrastive(0.1)),
    "Implicit, exact": (DESCENT, mc.Implicit("exact")),
    "Unrolled": (mc.gauss_newton(2), mc.Unrolled()),
    "Evolution": (DESCENT, mc.Evolution(0.1, pairs=2)),
}


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="emulated on CPUs")
@pytest.mark.parametrize("name", LOW)
def test_the_emulation_rounds_what_is_asked_for_and_nothing_else(name):
    a, b = jax.random.normal(jax.random.key(0), (2, 40, 40), jnp.float32)
    bits = BITS[jax.lax.Precision(name)]
    product = jax.jit(lambda a, b: a @ b)
    exact = product(a, b)
    with low_precision(name):
        low = product(a, b)
        assert np.array_equal(jnp.matmul(a, b, precision="highest"), exact)
    both = rounded(a, bits).astype(float) @ rounded(b, bits).astype(float)
    assert np.linalg.norm(low - both) < 1e-6 * np.linalg.norm(both)
    # Two factors, each with an error even within half a unit of its last bit, which is of standard
    # deviation 1 / sqrt(12) units; a number is 1.4 times its leading bit on average.
    expected = np.sqrt(2 / 12) * 2.0**-bits / 1.5
    assert np.linalg.norm(low - exact) / np.linalg.norm(exact) == pytest.approx(expected, rel=0.2)


@pytest.mark.parametrize("case", CASES)
def test_every_product_of_a_meta_gradient_is_of_the_highest_precision(case):
    solver, estimator = CASES[case]
    loss = mc.meta_loss(PROBLEM, solver, estimator)
    key = jax.random.key(0)
    with low_precision("bfloat16"):
        found = precisions(jax.value_and_grad(loss), THETA32, TASK32, key)
    assert set(found) == {HIGHEST}


def test_the_losses_of_users_are_left_as_they_are():
    loss = mc.meta_loss(written(lambda phi, x: phi @ x), DESCENT, mc.Contrastive(0.1))
    with low_precision("tensorfloat32"):
        found = precisions(jax.grad(loss), THETA32, TASK32)
    assert set(found) == {HIGHEST, jax.lax.Precision.HIGH}  # ours, and the network's


def _head(log_fit, x, y):
    """The inner loss of a ridge regression on features as a network has them, and its gradient."""
    task, theta = mc.Task(mc.Data(x, y), mc.Data(x[::-1], y[::-1])), HeadTheta(log_fit, 3.0)
    problem, solver = ridge_head(20), ridge_newton(2)
    phi = mc.solve_inner(problem, solver, theta, task).phi
    rule = mc.Contrastive(10.0, "symmetric", nudged=solver)
    grad = jax.grad(mc.meta_loss(problem, solver, rule))(theta, task)
    return problem.inner(phi, theta, task), grad


def test_a_head_is_solved_alike_however_much_it_is_to_fit():
    # All alike but for little, as features are: the gram matrix is ill-conditioned.
    noise = jax.random.normal(jax.random.key(0), (20, 64), jnp.float32)
    x, y = (1 + 0.3 * noise) / 8, jnp.arange(20)
    run = jax.jit(_head)
    for log_fit in jnp.array([2.8, 5.0, 8.0], jnp.float32):
        exact = run(log_fit, x, y)
        with low_precision("tensorfloat32"):
            low = run(log_fit, x, y)
        assert jax.tree.all(jax.tree.map(np.array_equal, low, exact))
        assert exact[0] < jnp.exp(log_fit) * 20 * np.exp(6.0)  # less than without learning anything


def test_the_constants_of_the_theorem_are_those_of_the_highest_precision():
    bowl = lambda scale: lambda phi, theta, z: scale * jnp.sum((phi - theta) ** 2)
    problem = mc.Problem(lambda theta, z: theta, bowl(1.0), bowl(2.0))
    with low_precision("bfloat16"):
        constants = jax.jit(lambda x: quadratic_constants(problem, x, None))
        assert set(precisions(constants, jnp.ones(3, jnp.float32))) <= {HIGHEST}
