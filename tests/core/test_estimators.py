"""The estimators against each other, and each against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import (
    EPS,
    closed_form,
    implicit_hypergradient,
    logistic,
    meta_grad,
    newton,
    quadratic,
    quadratic_hypergradient,
    quadratic_solution,
    random_logistic,
    random_quadratic,
    random_ridge,
    relative_error,
    ridge,
    ridge_hypergradient,
    ridge_solution,
)

import metacontrast as mc

# (beta, scheme) of a vanishing nudge: beta^2 is 1e-8 and round-off over beta about 1e-11.
VANISHING = mc.Contrastive(1e-4, "symmetric")
# Enough steps: the curvatures are at least 0.5, so the error falls below exp(-0.05 * 2000).
LONG = mc.descend(optax.sgd(0.1), 2000)


@pytest.mark.parametrize(
    ("problem", "random", "truth", "solution"),
    [
        (quadratic, random_quadratic, quadratic_hypergradient, quadratic_solution),
        (ridge, random_ridge, ridge_hypergradient, ridge_solution),
    ],
    ids=["quadratic", "ridge"],
)
@pytest.mark.parametrize("how", ["contrast of closed forms", "contrast of descents", "unrolled"])
def test_vanishing_nudge_and_endless_unrolling_give_the_exact_gradient(
    problem, random, truth, solution, how
):
    theta, task = random(1)
    solve, estimator = {
        "contrast of closed forms": (closed_form(solution), VANISHING),
        "contrast of descents": (LONG, VANISHING),
        "unrolled": (LONG, mc.Unrolled()),
    }[how]
    found = meta_grad(problem, solve, estimator, theta, task)
    assert relative_error(found, truth(theta, task)) < 1e-6


def test_contrast_and_unrolling_agree_where_the_loss_is_not_quadratic():
    theta, task = random_logistic(1)
    solve = mc.descend(optax.sgd(0.5), 1000)
    contrast, unrolled = (
        meta_grad(logistic, solve, e, theta, task) for e in (VANISHING, mc.Unrolled())
    )
    phi = newton(10)(mc.Loss(logistic, theta, task), theta.omega).phi
    assert relative_error(contrast, unrolled) < 1e-6
    assert relative_error(unrolled, implicit_hypergradient(logistic, theta, task, phi)) < 1e-6


def test_unrolled_is_the_finite_difference_of_training():
    theta, task = random_logistic(0)
    solve, estimator = mc.descend(optax.adam(0.05), 5), mc.Unrolled()
    value = jax.jit(
        lambda theta: logistic.outer(mc.solve_inner(logistic, solve, theta, task).phi, theta, task)
    )
    gradient = meta_grad(logistic, solve, estimator, theta, task)
    leaves, tree = jax.tree.flatten(theta)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    towards = tree.unflatten(
        [jax.random.normal(k, jnp.shape(leaf)) for k, leaf in zip(keys, leaves, strict=True)]
    )
    h = 1e-5
    moved = lambda s: value(jax.tree.map(lambda leaf, v: leaf + s * v, theta, towards))
    slope = optax.tree.vdot(gradient, towards)
    # A central difference: h^2 is 1e-10, round-off over h about 1e-11; Adam's third derivatives
    # are large where a gradient is small, hence the margin.
    assert float((moved(h) - moved(-h)) / (2 * h)) == pytest.approx(float(slope), rel=1e-6)


def test_unrolled_counts_the_direct_derivative():
    problem = mc.Problem(
        init=lambda theta, task: theta,
        inner=lambda phi, theta, task: 0.5 * (phi - task) ** 2,
        outer=lambda phi, theta, task: theta * phi,
    )
    solve = mc.descend(optax.sgd(0.5), 1)
    found = meta_grad(problem, solve, mc.Unrolled(), jnp.array(3.0), jnp.array(1.0))
    assert float(found) == 2.0 + 3.0 * 0.5  # phi_1 = 2 and theta * dphi_1/dtheta


def test_unrolled_needs_the_key_of_a_sampling_learner_and_uses_it():
    problem = mc.Problem(
        init=lambda theta, task: theta,
        inner=lambda phi, theta, task: 0.5 * (phi - theta * task) ** 2,
        outer=lambda phi, theta, task: phi,
        sample=lambda task, key: jax.random.normal(key),
    )
    key = jax.random.key(5)
    solve = mc.descend(optax.sgd(1.0), 1)  # phi_1 = theta * noise
    found = meta_grad(problem, solve, mc.Unrolled(), jnp.array(2.0), jnp.array(0.0), key)
    assert float(found) == pytest.approx(
        float(jax.random.normal(jax.random.split(jax.random.fold_in(key, 0))[0]))
    )


def test_first_order_is_the_slope_at_the_end_with_the_path_held_fixed():
    problem = mc.Problem(
        init=lambda theta, task: 2 * theta["start"],
        inner=lambda phi, theta, task: jnp.sum(theta["weight"] * (phi - task) ** 2),
        outer=lambda phi, theta, task: theta["weight"] * jnp.sum(phi**3),
    )
    theta = {"start": jnp.array([0.5, -1.0]), "weight": jnp.array(0.7)}
    task = jnp.array([1.0, 2.0])
    solve = mc.descend(optax.sgd(0.1), 4)
    found = meta_grad(problem, solve, mc.FirstOrder(), theta, task)

    shrink = (1 - 0.1 * 2 * 0.7) ** 4
    phi = task + shrink * (2 * theta["start"] - task)
    expected = {"start": 2 * 3 * 0.7 * phi**2, "weight": jnp.sum(phi**3)}
    assert relative_error(found, expected) < 100 * EPS


def test_first_order_misses_what_acts_through_the_inner_loss_alone():
    theta, task = random_quadratic(0)
    with pytest.raises(ValueError, match=r"^theta: .*do not depend on theta\.log_lam,.*Unrolled"):
        mc.meta_gradient(quadratic, LONG, mc.FirstOrder())(theta, task)
    # A leaf of which no gradient is asked is not missed.
    loss = mc.meta_loss(quadratic, LONG, mc.FirstOrder())
    assert jnp.all(jax.grad(lambda omega: loss(theta._replace(omega=omega), task))(theta.omega))


@pytest.mark.filterwarnings("ignore:the meta-gradient may be wrong")
@pytest.mark.parametrize("estimator", [mc.Contrastive(0.1), mc.Unrolled(), mc.Implicit("identity")])
def test_every_estimator_reports_the_free_phase(estimator):
    theta, task = random_quadratic(0)
    solve = mc.descend(optax.sgd(0.1), 5)
    value, _, _, told, _ = mc.meta_gradient(quadratic, solve, estimator)(theta, task)
    loss = mc.Loss(quadratic, theta, task)
    phi = solve(loss, theta.omega).phi
    for name, expected in {
        "inner": loss(phi),
        "outer": loss.outer(phi),
        "residual": jnp.linalg.norm(jax.grad(loss)(phi)),
    }.items():
        assert float(told[name]) == pytest.approx(float(expected), rel=100 * EPS), name
    assert value == told["outer"]


@pytest.mark.parametrize("estimator", [mc.Contrastive(0.1), mc.Unrolled(), mc.Implicit("identity")])
def test_estimators_keep_the_dtypes_of_theta(estimator):
    narrow = lambda tree: jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree)
    theta, task = random_quadratic(0)
    theta = mc.Synapse(narrow(theta.omega), theta.log_lam.astype(jnp.float16))
    task = narrow(task)
    solve = mc.descend(optax.sgd(0.1), 5)
    found = meta_grad(quadratic, solve, estimator, theta, task)
    assert jax.tree.map(jnp.result_type, found) == jax.tree.map(jnp.result_type, theta)


def test_float32_costs_its_round_off_over_beta():
    theta, task = random_quadratic(0)
    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (theta, task))
    solve, beta = closed_form(quadratic_solution), 0.05
    found, expected = (
        meta_grad(quadratic, solve, mc.Contrastive(beta, "symmetric"), *arguments)
        for arguments in (narrow, (theta, task))
    )
    assert found.omega.dtype == jnp.float32
    assert relative_error(found, expected) < 10 * np.finfo(np.float32).eps / beta
