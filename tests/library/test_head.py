"""The fast head: its solver against ridge regression, its contrast against the exact gradient."""

from functools import cache, partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import EPS, relative_error, slope

import metacontrast as mc
from metacontrast._loss import LinearNudge, OuterNudge
from metacontrast.slow import HeadTheta, Splits, ridge_head, ridge_newton

CLASSES, WIDTH, SUPPORT = 3, 5, 4
PROBLEM = ridge_head(CLASSES)


def features(body, task):
    """A body of one layer, as `task` is: of a task, or of the splits of one."""
    return type(task)(*(mc.Data(jnp.tanh(h.x @ body) / np.sqrt(WIDTH), h.y) for h in task))


@cache
def example(n=SUPPORT, seed=0, queries=7):
    """A body, and a task with n support examples in four dimensions."""
    rng = np.random.default_rng(seed)
    half = lambda n: mc.Data(rng.normal(size=(n, 4)), rng.integers(0, CLASSES, n))
    body = jnp.asarray(rng.normal(size=(4, WIDTH)))
    return body, jax.tree.map(jnp.asarray, mc.Task(half(n), half(queries)))


def head(log_fit=1.0, log_scale=0.7):
    return HeadTheta(jnp.array(log_fit), jnp.array(log_scale))


@cache
def gradient(solver, make, problem=PROBLEM):
    """`(beta, body, head, task) -> gradient` by both, compiled once for all betas."""

    @jax.jit
    def run(beta, body, head, task):
        loss = mc.meta_loss(problem, solver, make(beta))
        composed = lambda slow: loss(slow[1], features(slow[0], task))
        return jax.grad(composed)((body, head))

    return run


def implicit(beta):
    return mc.Implicit("exact")


def symmetric(beta, steps, nudge="outer"):
    return mc.Contrastive(beta, "symmetric", nudge=nudge, nudged=ridge_newton(steps))


SYMMETRIC = {steps: partial(symmetric, steps=steps) for steps in (1, 2)}


def exact(head, body, task):
    return gradient(ridge_newton(), implicit)(0.0, body, head, task)


@pytest.mark.parametrize("n", [2, 9])  # fewer and more examples than features
def test_one_step_is_ridge_regression(n):
    body, task = example(n)
    z = features(body, task)
    phi = jax.jit(partial(mc.solve_inner, PROBLEM, ridge_newton()))(head(), z).phi
    f, gamma = z.train.x, np.exp(1.0)
    targets = np.exp(0.7) * (np.eye(CLASSES)[task.train.y] - 1 / CLASSES)
    ridge = np.linalg.solve(f.T @ f + np.eye(WIDTH) / gamma, f.T @ targets)
    # Matrices of condition 30 at most.
    assert relative_error(phi, jnp.asarray(ridge)) < 1e3 * EPS


@pytest.mark.parametrize("damping", [0.0, 3.0])
def test_the_inverse_is_that_of_the_hessian(damping):
    body, task = example()
    z = features(body, task)
    flat = lambda x: PROBLEM.inner(x.reshape(WIDTH, CLASSES), head(), z)
    hessian = jax.jit(jax.hessian(flat))(jnp.zeros(WIDTH * CLASSES))
    g = jax.random.normal(jax.random.key(0), (WIDTH, CLASSES))
    product = PROBLEM.inner.inverse_curvature(head(), z, damping).apply(g)
    back = hessian @ product.ravel() + damping * product.ravel()
    assert relative_error(back, g.ravel()) < 1e3 * EPS


def test_each_nudged_step_divides_the_error_by_four_or_more():
    body, task = example()
    loss = mc.Loss(PROBLEM, head(), features(body, task))

    @jax.jit
    def residual(beta, phi):
        return optax.tree.norm(jax.grad(loss.nudged(OuterNudge(beta)))(phi))

    @jax.jit
    def step(beta, phi):
        return ridge_newton()(loss.nudged(OuterNudge(beta)), phi).phi

    for beta in (-1.0, 1.0):
        phis = [jnp.zeros((WIDTH, CLASSES))]
        for _ in range(5):
            phis.append(step(beta, phis[-1]))
        residuals = [float(residual(beta, phi)) for phi in phis[2:]]
        # Rows of length below one: the curvature of L_out is at most 1/2, of L_in at least 2.
        assert all(b < a / 4 for a, b in pairwise(residuals))
        # And several steps are as many single ones.
        whole = jax.jit(partial(ridge_newton(5), loss.nudged(OuterNudge(beta))))(phis[0]).phi
        assert relative_error(whole, phis[-1]) < 1e3 * EPS


@pytest.mark.parametrize("damping", [None, 0.0, 30.0])
def test_one_step_solves_a_linear_nudge_whatever_its_damping(damping):
    body, task = example()
    loss = mc.Loss(PROBLEM, head(), features(body, task))
    along, phi_0 = jax.random.normal(jax.random.key(1), (2, WIDTH, CLASSES))

    @jax.jit
    def residual(phi_0):
        slope = None if damping is None else jax.grad(loss.inner)(phi_0)
        nudged = loss.nudged(LinearNudge(0.7, along, phi_0, damping, slope))
        gradient = jax.grad(nudged)
        last = gradient(ridge_newton()(nudged, phi_0).phi)
        return optax.tree.norm(last) / optax.tree.norm(gradient(phi_0))

    # The curvature is at most 2 + 2 e |F|^2 = 25 above the least, 2; with damping they are closer.
    assert residual(phi_0) < 1e2 * 25 * EPS


def test_the_inverse_is_factorised_once_a_phase():
    """A factorisation is outside of the loop over steps."""
    body, task = example()
    z = features(body, task)
    run = partial(mc.solve_inner, PROBLEM, ridge_newton(7))
    program = jax.make_jaxpr(run)(head(), z).jaxpr
    (loop,) = [eqn for eqn in program.eqns if eqn.primitive.name == "scan"]
    assert "lu" not in str(loop.params["jaxpr"]) and "lu" in str(program)


def test_backpropagation_through_the_solve_is_the_exact_gradient():
    body, task = example()
    unrolled = gradient(ridge_newton(), lambda beta: mc.Unrolled())(0.0, body, head(), task)
    # Round-off in inverses of condition below 100.
    assert relative_error(unrolled, exact(head(), body, task)) < 1e4 * EPS


def test_backpropagation_through_the_last_step_alone_is_the_exact_gradient():
    # The first step solves; the second one moves with theta and z, by the implicit derivative.
    body, task = example()
    truncated = gradient(ridge_newton(2), lambda beta: mc.Unrolled(truncate=1))
    result = truncated(0.0, body, head(), task)
    assert relative_error(result, exact(head(), body, task)) < 1e4 * EPS


def test_the_contrast_is_the_exact_gradient_whatever_solves_the_head():
    body, task = example()
    make = lambda beta: mc.Contrastive(beta, "symmetric")
    result = gradient(mc.newton_cg(1e-12), make)(1e-3, body, head(), task)
    # c beta^2 + delta / beta, with delta below 1e-11.
    assert relative_error(result, exact(head(), body, task)) < 1e-5


@pytest.mark.parametrize("steps", [1, 2])
def test_the_error_is_of_second_order_even_with_one_nudged_step(steps):
    # One step from phi_0 finds the tangent of the path of minimisers, and what is beyond it in
    # phi_beta - phi_-beta is of third order.
    body, task = example()
    right = exact(head(), body, task)
    betas = np.array([0.05, 0.1, 0.2, 0.4])
    run = gradient(ridge_newton(), SYMMETRIC[steps])
    errors = [relative_error(run(beta, body, head(), task), right) for beta in betas]
    assert slope(betas, errors) == pytest.approx(2.0, abs=0.1)


def test_linear_nudges_are_exact_at_any_beta():
    body, task = example()
    right = exact(head(), body, task)
    run = gradient(ridge_newton(), partial(symmetric, steps=1, nudge="linear"))
    for beta in (0.1, 3.0):
        assert relative_error(run(beta, body, head(), task), right) < 1e5 * EPS  # over beta


@pytest.mark.parametrize("log_fit", [-3.0, 1.0, 5.0])
@pytest.mark.parametrize("log_scale", [-1.0, 1.0, 3.0])
def test_one_beta_serves_whatever_fit_and_scale_become(log_fit, log_scale):
    body, task = example()
    theta = head(log_fit, log_scale)
    result = gradient(ridge_newton(), SYMMETRIC[2])(0.5, body, theta, task)
    # beta times the ratio of the curvatures is 1/8 at most, and the rule of second order in it; the
    # constant, of third derivatives, is taken to be 4.
    assert relative_error(result, exact(theta, body, task)) < 4 / 8**2


def test_several_splits_are_the_mean_of_each():
    body, one = example(seed=1)
    _, other = example(seed=2)
    splits = Splits(*jax.tree.map(lambda *x: jnp.stack(x), one, other))
    run = gradient(ridge_newton(), SYMMETRIC[2])
    result = run(0.2, body, head(), splits)
    # L_in of the splits add up and L_out is their mean, so that each is nudged by half of beta.
    each = [run(0.1, body, head(), task) for task in (one, other)]
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *each)
    assert relative_error(result, mean) < 1e5 * EPS  # round-off over beta


def test_it_learns_from_all_data_where_the_problem_samples():
    body, task = example()
    z = features(body, task)
    nothing = lambda z, key: jax.tree.map(jnp.zeros_like, z)
    drawn = mc.Problem(PROBLEM.init, PROBLEM.inner, PROBLEM.outer, sample=nothing)
    run = lambda problem, key: mc.solve_inner(problem, ridge_newton(), head(), z, key).phi
    sampled, whole = jax.jit(lambda key: [run(drawn, key), run(PROBLEM, None)])(jax.random.key(0))
    np.testing.assert_array_equal(sampled, whole)


def test_it_refuses_other_losses():
    message = "solver: ridge_newton needs an inner loss that knows the inverse of its curvature"
    with pytest.raises(TypeError, match=message):
        ridge_newton()(lambda phi: jnp.sum(phi**2), jnp.zeros(2))
    with pytest.raises(ValueError, match="steps"):
        ridge_newton(0)
    with pytest.raises(ValueError, match="classes"):
        ridge_head(0)


@pytest.mark.parametrize("half", ["train", "test"])
@pytest.mark.parametrize("label", [-1, CLASSES])
def test_a_label_that_is_no_class_is_no_other_one_either(half, label):
    body, task = example()
    task = features(body, task)
    data = getattr(task, half)
    task = task._replace(**{half: data._replace(y=data.y.at[0].set(label))})
    rule = mc.meta_gradient(PROBLEM, ridge_newton(), mc.Contrastive(1.0, "symmetric"), by_z=False)
    with pytest.raises(ValueError, match=r"^problem\.(inner|outer): the loss is nan"):
        rule(head(), task)
    assert jax.jit(rule)(head(), task).aux["flags"].nonfinite
