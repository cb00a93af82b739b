"""The fast head: its solver against ridge regression, its contrast against the exact gradient."""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import EPS, meta_grad, relative_error, slope

import metacontrast as mc

CLASSES, WIDTH = 3, 5


def features(body, task):
    """A body of one layer, which no solver may walk back through but once."""
    see = lambda half: mc.Data(jnp.tanh(half.x @ body) / np.sqrt(WIDTH), half.y)
    return mc.Task(see(task.train), see(task.test))


PROBLEM = mc.ridge_head(features, CLASSES)


def drawn(n, seed=0, queries=7):
    """A body, and a task with n support examples in four dimensions."""
    rng = np.random.default_rng(seed)
    half = lambda n: mc.Data(rng.normal(size=(n, 4)), rng.integers(0, CLASSES, n))
    return jnp.asarray(rng.normal(size=(4, WIDTH))), jax.tree.map(
        jnp.asarray, mc.Task(half(n), half(queries))
    )


def theta_of(body, log_fit=1.0, log_scale=0.7):
    return mc.HeadTheta(body, jnp.array(log_fit), jnp.array(log_scale))


@pytest.mark.parametrize("n", [2, 9])  # fewer and more examples than features
def test_one_step_is_ridge_regression(n):
    body, task = drawn(n)
    theta = theta_of(body)
    phi = mc.learn(PROBLEM, mc.ridge_newton(), theta, task).phi
    f, gamma = features(body, task).train.x, np.exp(1.0)
    targets = np.exp(0.7) * (np.eye(CLASSES)[task.train.y] - 1 / CLASSES)
    ridge = np.linalg.solve(f.T @ f + np.eye(WIDTH) / gamma, f.T @ targets)
    # Matrices of condition 30 at most.
    assert relative_error(phi, jnp.asarray(ridge)) < 1e3 * EPS


@pytest.mark.parametrize("beta", [-1.0, 1.0])
def test_each_nudged_step_divides_the_error_by_four_or_more(beta):
    body, task = drawn(4)
    loss = PROBLEM.loss(theta_of(body), task, beta)
    start = jnp.zeros((WIDTH, CLASSES))
    found = [mc.ridge_newton(steps)(loss, start).phi for steps in (2, 3, 4, 5)]
    residuals = [float(jnp.linalg.norm(jax.grad(loss)(phi))) for phi in found]
    # Rows of length below one: the curvature of L_out is at most 1/2, that of L_in at least 2.
    assert all(b < a / 4 for a, b in pairwise(residuals))


def exact(theta, task):
    return meta_grad(PROBLEM, mc.ridge_newton(), mc.Implicit("exact"), theta, task)


def test_backpropagation_through_the_solve_is_the_exact_gradient():
    body, task = drawn(4)
    theta = theta_of(body)
    unrolled = meta_grad(PROBLEM, mc.ridge_newton(), mc.Unrolled(), theta, task)
    # Round-off in inverses of condition below 100.
    assert relative_error(unrolled, exact(theta, task)) < 1e4 * EPS


SOLVERS = {
    "ridge_newton": mc.ridge_newton(20),
    "newton_cg": mc.newton_cg(1e-12),
    "lbfgs": mc.lbfgs(1e-8, 500),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_the_contrast_is_the_exact_gradient_whatever_solves_the_head(name):
    body, task = drawn(4)
    theta = theta_of(body)
    found = meta_grad(PROBLEM, SOLVERS[name], mc.Contrastive(1e-3, "symmetric"), theta, task)
    # c beta^2 + delta / beta, with delta up to 1e-8 for L-BFGS.
    assert relative_error(found, exact(theta, task)) < 2e-5


@pytest.mark.parametrize("steps", [1, 2, 20])
def test_the_error_is_of_second_order_even_with_one_nudged_step(steps):
    # One step from phi_0 finds the tangent of the path of minimisers, and what is beyond it in
    # phi_beta - phi_-beta is of third order.
    body, task = drawn(4)
    theta = theta_of(body)
    right = exact(theta, task)
    betas = np.array([0.05, 0.1, 0.2, 0.4])
    errors = []
    for beta in betas:
        rule = mc.Contrastive(float(beta), "symmetric", nudged=mc.ridge_newton(steps))
        errors.append(
            relative_error(meta_grad(PROBLEM, mc.ridge_newton(), rule, theta, task), right)
        )
    assert slope(betas, errors) == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize("log_fit", [-3.0, 1.0, 5.0])
@pytest.mark.parametrize("log_scale", [-1.0, 1.0, 3.0])
def test_one_beta_serves_whatever_fit_and_scale_become(log_fit, log_scale):
    body, task = drawn(4)
    theta = theta_of(body, log_fit, log_scale)
    rule = mc.Contrastive(0.5, "symmetric", nudged=mc.ridge_newton(2))
    found = meta_grad(PROBLEM, mc.ridge_newton(), rule, theta, task)
    # beta times the ratio of the curvatures is 1/8 at most, and the rule of second order in it; the
    # constant, of third derivatives, is taken to be 4.
    assert relative_error(found, exact(theta, task)) < 4 / 8**2


def test_several_splits_are_the_mean_of_each():
    body, one = drawn(4, 1)
    _, other = drawn(4, 2)
    theta = theta_of(body)
    splits = {"all": jax.tree.map(lambda *x: jnp.stack(x), one, other)}
    split = mc.ridge_head(lambda body, z: jax.vmap(partial(features, body))(z["all"]), CLASSES)
    rule = lambda beta: mc.Contrastive(beta, "symmetric", nudged=mc.ridge_newton(3))
    found = meta_grad(split, mc.ridge_newton(), rule(0.2), theta, splits)
    # L_in of the splits add up and L_out is their mean, so that each is nudged by half of beta.
    each = [meta_grad(PROBLEM, mc.ridge_newton(), rule(0.1), theta, t) for t in (one, other)]
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *each)
    assert relative_error(found, mean) < 1e5 * EPS  # round-off over beta


def test_it_refuses_other_losses():
    with pytest.raises(TypeError, match="solve: ridge_newton needs the loss of a ridge_head"):
        mc.ridge_newton()(lambda phi: jnp.sum(phi**2), jnp.zeros(2))
    with pytest.raises(ValueError, match="steps"):
        mc.ridge_newton(0)
