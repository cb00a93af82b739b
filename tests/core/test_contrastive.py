"""The contrastive rule against closed forms, and what each of its settings does."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import (
    EPS,
    Recorder,
    closed_form,
    lazy,
    logistic,
    meta_grad,
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
    slope,
)

import metacontrast as mc

exact_quadratic = closed_form(quadratic_solution)
exact_ridge = closed_form(ridge_solution)


# Orders of accuracy. Betas are in units of the nearest pole (see random_quadratic). At the top of
# each range the next term is a few per cent of the leading one, below the bottom round-off of
# EPS / beta begins to show; both stay within the 0.1 that is allowed.


def observed_order(problem, solve, scheme, order, theta, task, expected, betas, part=lambda g: g):
    gradient = jax.jit(
        lambda beta: meta_grad(problem, solve, mc.Contrastive(beta, scheme, order), theta, task)
    )
    errors = [relative_error(part(gradient(beta)), part(expected)) for beta in betas]
    return slope(betas, errors)


CASES = [
    ("forward", 1, 4e-4),
    ("forward", 2, 4e-4),
    ("forward", 3, 4e-4),
    ("symmetric", 2, 1e-3),
    ("symmetric", 4, 1e-3),
]


@pytest.mark.parametrize(("scheme", "order", "lowest"), CASES)
def test_order_in_beta_on_quadratics(scheme, order, lowest):
    theta, task = random_quadratic(0)
    expected = quadratic_hypergradient(theta, task)
    betas = np.geomspace(lowest, 100 * lowest, 9)
    found = observed_order(quadratic, exact_quadratic, scheme, order, theta, task, expected, betas)
    assert found == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize(("scheme", "order", "lowest"), CASES)
def test_order_in_beta_on_ridge_regression(scheme, order, lowest):
    theta, task = random_ridge(0)
    expected = ridge_hypergradient(theta, task)
    betas = np.geomspace(lowest, 100 * lowest, 9)
    found = observed_order(ridge, exact_ridge, scheme, order, theta, task, expected, betas)
    assert found == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize(
    ("scheme", "order"),
    [("forward", 1), ("forward", 2), ("forward", 3), ("forward", 4), ("symmetric", 4)],
)
def test_order_in_beta_where_round_off_is_not_divided_by_beta(scheme, order):
    # With the free solution at the origin, phi_beta - phi_0 has no cancellation, and two decades
    # fit between the fourth-order error and round-off.
    theta, task = random_quadratic(2)
    theta, task = theta | {"omega": 0 * theta["omega"]}, task._replace(centre=0 * task.centre)
    expected = quadratic_hypergradient(theta, task)
    betas = np.geomspace(4e-4, 4e-2, 9)
    found = observed_order(
        quadratic,
        exact_quadratic,
        scheme,
        order,
        theta,
        task,
        expected,
        betas,
        part=lambda g: g["omega"],
    )
    assert found == pytest.approx(order, abs=0.1)


def one_weight():
    """One weight with equal curvature within and without: phi_beta - phi_0 ~ beta / (1 + beta)."""
    theta = {"omega": jnp.array([0.3]), "log_lam": jnp.array([math.log(0.5)])}
    task = (jnp.array([[2.0]]), jnp.array([-1.0]), jnp.array([[3.0]]), jnp.array([1.7]))
    return theta, type(random_quadratic(0)[1])(*task)


def predicted_error(scheme, order, beta):
    """Of the stencil on 1 / (1 + beta), up to sign, by divided differences."""
    if scheme == "forward":
        return math.prod(i * beta / (1 + i * beta) for i in range(1, order + 1))
    return math.prod((i * beta) ** 2 / (1 - (i * beta) ** 2) for i in range(1, order // 2 + 1))


@pytest.mark.parametrize("beta", [0.01, 0.1, 0.4])
@pytest.mark.parametrize(
    ("scheme", "order"),
    [("forward", 1), ("forward", 2), ("forward", 3), ("symmetric", 2), ("symmetric", 4)],
)
def test_error_for_one_weight_is_a_closed_form(scheme, order, beta):
    theta, task = one_weight()
    estimator = mc.Contrastive(beta, scheme, order)
    found = meta_grad(quadratic, exact_quadratic, estimator, theta, task)["omega"]
    error = relative_error(found, quadratic_hypergradient(theta, task)["omega"])
    # Round-off: phi to a few EPS, divided by beta, times weights whose sum is below 10.
    assert error == pytest.approx(predicted_error(scheme, order, beta), rel=0, abs=100 * EPS / beta)


def test_forward_error_saturates_as_beta_over_one_plus_beta():
    assert predicted_error("forward", 1, 3.0) == 3.0 / (1 + 3.0)
    theta, task = one_weight()
    found = meta_grad(quadratic, exact_quadratic, mc.Contrastive(3.0), theta, task)["omega"]
    error = relative_error(found, quadratic_hypergradient(theta, task)["omega"])
    assert error == pytest.approx(0.75, rel=100 * EPS)


@jax.jit
def forward_contrast(theta, task, beta):
    return meta_grad(quadratic, exact_quadratic, mc.Contrastive(beta), theta, task)["omega"]


@given(seed=st.integers(0, 2**32 - 1), beta=st.floats(1e-3, 10.0))
def test_forward_error_is_bounded_by_beta_times_curvatures(seed, beta):
    theta, task = random_quadratic(seed)
    exact = quadratic_hypergradient(theta, task)["omega"]
    found = forward_contrast(theta, task, beta)
    # g_beta - g = -beta 2 lam M^-1 A (M + beta A)^-1 A (phi_0 - b); |(M + beta A)^-1| <= |M^-1|.
    phi, m = quadratic_solution(theta, task)
    inverse, a = np.linalg.norm(np.linalg.inv(m), 2), np.linalg.norm(task.outer_curvature, 2)
    twice = float(2 * jnp.exp(theta["log_lam"]).max())
    bound = beta * twice * (inverse * a) ** 2 * float(jnp.linalg.norm(phi - task.outer_centre))
    assert float(jnp.linalg.norm(found - exact)) <= bound + 1e3 * EPS / beta


@pytest.mark.parametrize("scheme", ["forward", "symmetric"])
def test_negative_beta_turns_the_nudge_around(scheme):
    theta, task = random_quadratic(0)
    exact = quadratic_hypergradient(theta, task)["omega"]
    there, back = (
        meta_grad(quadratic, exact_quadratic, mc.Contrastive(b, scheme), theta, task)["omega"]
        for b in (0.01, -0.01)
    )
    if scheme == "symmetric":
        np.testing.assert_allclose(there, back, rtol=1e3 * EPS / 0.01)
    else:  # the errors of first order are opposite, the sum is a symmetric difference: beta^2
        assert relative_error(there, exact) > 1e-3
        assert relative_error((there + back) / 2, exact) < 0.01**2


# The direct derivative of the outer loss


def test_theta_in_the_outer_loss_alone_gives_its_direct_derivative():
    problem = mc.Problem(
        init=lambda theta, task: jnp.zeros(2),
        inner=lambda phi, theta, task: jnp.sum((phi - task) ** 2),
        outer=lambda phi, theta, task: theta * jnp.sum(phi**2),
    )
    task = jnp.array([1.0, 2.0])
    solve = lambda loss, phi0: loss.z / (1 + loss.beta * loss.theta)
    found = meta_grad(problem, solve, mc.Contrastive(1e-3), jnp.array(0.7), task)
    # Forward: the direct term is taken at phi_beta, |phi_beta|^2 = 5 / (1 + 0.7 beta)^2.
    assert float(found) == pytest.approx(5.0 / (1 + 0.7e-3) ** 2, rel=1e-12)


def test_theta_in_both_losses_adds_the_direct_and_the_implicit_derivative():
    problem = mc.Problem(
        init=lambda theta, task: theta,
        inner=lambda phi, theta, task: (phi - theta) ** 2 + (phi - task) ** 2,
        outer=lambda phi, theta, task: (phi - theta) ** 2,
    )
    solve = lambda loss, phi0: ((1 + loss.beta) * loss.theta + loss.z) / (2 + loss.beta)
    estimator = mc.Contrastive(1e-3, "symmetric")
    found = meta_grad(problem, solve, estimator, jnp.array(1.0), jnp.array(4.0))
    # phi_0 - theta = (task - theta) / 2: L_out = (task - theta)^2 / 4, whose slope is -3/2; of it,
    # -2 (phi_0 - theta) = -3 is direct. The error is below beta^2.
    assert float(found) == pytest.approx(-1.5, abs=1e-6)


# Phases


def test_a_learner_that_does_not_move_has_no_contrast():
    theta, task = random_quadratic(0)
    for scheme in ("forward", "symmetric"):
        found = meta_grad(quadratic, lazy, mc.Contrastive(0.1, scheme), theta, task)
        assert all(jnp.all(leaf == 0) for leaf in jax.tree.leaves(found))


def test_nudged_phases_start_at_the_free_solution():
    theta, task = random_quadratic(0)
    solve = Recorder(mc.descend(optax.sgd(0.1), 5))
    solution = mc.learn(quadratic, solve.solve, theta, task)
    meta_grad(quadratic, solve, mc.Contrastive(0.1, "symmetric", 4), theta, task)
    assert solve.betas == [0.0, -0.2, -0.1, 0.1, 0.2]
    np.testing.assert_array_equal(solve.starts[0], theta["omega"])
    for start in solve.starts[1:]:
        np.testing.assert_array_equal(start, solution.phi)


def test_the_free_phase_is_run_once_and_serves_as_the_node_at_zero():
    theta, task = random_quadratic(0)
    for order in (1, 2):
        solve = Recorder(exact_quadratic)
        meta_grad(quadratic, solve, mc.Contrastive(0.1, order=order), theta, task)
        assert solve.betas == [0.0, 0.1, 0.2][: order + 1]


def test_a_traced_beta_is_the_same_estimator():
    theta, task = random_quadratic(0)
    solve = mc.descend(optax.sgd(0.1), 3)  # far from converged: an extra phase would show
    grad = lambda beta: meta_grad(quadratic, solve, mc.Contrastive(beta), theta, task)
    assert relative_error(jax.jit(grad)(0.1), grad(0.1)) < 1e3 * EPS


def test_nudged_solver_runs_the_nudged_phases_and_no_other():
    theta, task = random_quadratic(0)
    free, nudged = Recorder(exact_quadratic), Recorder(exact_quadratic)
    meta_grad(quadratic, free, mc.Contrastive(0.1, "symmetric", nudged=nudged), theta, task)
    assert (free.betas, nudged.betas) == ([0.0], [-0.1, 0.1])


def test_control_reruns_the_phase_at_zero_with_the_nudged_solver():
    theta, task = random_quadratic(0)
    free, nudged = Recorder(exact_quadratic), Recorder(exact_quadratic)
    meta_grad(quadratic, free, mc.Contrastive(0.1, nudged=nudged, control=True), theta, task)
    assert (free.betas, nudged.betas) == ([0.0], [0.0, 0.1])
    np.testing.assert_array_equal(nudged.starts[0], nudged.starts[1])


def test_control_cancels_the_steps_the_free_phase_had_still_to_go():
    theta, task = random_quadratic(0)
    solve, beta = mc.descend(optax.sgd(0.05), 10), 1e-5
    plain, control = (
        jax.jit(
            lambda c=c: meta_grad(quadratic, solve, mc.Contrastive(beta, control=c), theta, task)
        )
        for c in (False, True)
    )
    exact = quadratic_hypergradient(theta, task)
    assert relative_error(plain(), exact) > 100
    assert relative_error(control(), exact) < 1


def momentum(loss, phi, trace, steps, rate=0.05, decay=0.9):
    """Gradient descent with momentum, by hand."""
    for _ in range(steps):
        trace = decay * trace + jax.grad(loss)(phi)
        phi = phi - rate * trace
    return phi, trace


@pytest.mark.parametrize("carry", [False, True])
def test_carry_hands_the_momentum_over_and_its_absence_starts_afresh(carry):
    theta, task = random_quadratic(0)
    beta, optimizer = 0.3, optax.sgd(0.05, momentum=0.9)
    estimator = mc.Contrastive(beta, nudged=mc.descend(optimizer, 4), carry=carry)
    found = meta_grad(quadratic, mc.descend(optimizer, 7), estimator, theta, task)["omega"]

    loss, phi = quadratic.loss(theta, task), theta["omega"]
    free, trace = momentum(loss, phi, jnp.zeros_like(phi), 7)
    nudged, _ = momentum(loss.nudged(beta), free, trace if carry else jnp.zeros_like(phi), 4)
    by_hand = -2 * jnp.exp(theta["log_lam"]) * (nudged - free) / beta
    # 11 steps of a few roundings each, on numbers of order one, divided by beta.
    assert relative_error(found, by_hand) < 100 * EPS / beta


def test_carry_needs_a_solver_with_a_state():
    theta, task = random_quadratic(0)
    with pytest.raises(ValueError, match=r"^carry"):
        meta_grad(quadratic, exact_quadratic, mc.Contrastive(0.1, carry=True), theta, task)


# The same random numbers in every phase


def sampled_ridge():
    """Ridge regression on mini-batches of two of six examples."""

    def draw(task, key):
        rows = jax.random.choice(key, len(task.train.y), (2,), replace=False)
        return task._replace(train=jax.tree.map(lambda leaf: leaf[rows], task.train))

    return mc.Problem(ridge.init, ridge.inner, ridge.outer, sample=draw), *random_ridge(0)


def test_every_phase_draws_with_the_same_keys():
    drawn = []

    def draw(task, key):
        drawn.append(jax.random.key_data(key).tolist())
        return task

    def solve(loss, phi):
        for t in range(3):
            phi = phi - 0.01 * jax.grad(loss.at)(phi, t)
        return phi

    theta, task = random_quadratic(0)
    problem = mc.Problem(quadratic.init, quadratic.inner, quadratic.outer, sample=draw)
    meta_grad(problem, solve, mc.Contrastive(0.1, "symmetric"), theta, task, jax.random.key(3))
    free, minus, plus = drawn[:3], drawn[3:6], drawn[6:]
    assert free == minus == plus
    assert free[0] != free[1] != free[2] != free[0]


def nudged_run(problem, theta, task, key, steps, rate):
    """`beta -> phi_beta - phi_0` direction: the mini-batch run from phi_0, written out by hand."""

    def descend(beta, phi):
        for t in range(steps):
            view = problem.sample(task, jax.random.fold_in(key, t))
            slope_in = jax.grad(problem.inner)(phi, theta, view)
            slope_out = jax.grad(problem.outer)(phi, theta, view)
            phi = phi - rate * (slope_in + beta * slope_out)
        return phi

    free = descend(0.0, problem.init(theta, task))
    phi, velocity = jax.jvp(lambda beta: descend(beta, free), (0.0,), (1.0,))
    return phi, velocity


@pytest.fixture(scope="module")
def sampled():
    """A mini-batch learner, its estimate as a function, and the limit of a noiseless contrast."""
    problem, theta, task = sampled_ridge()
    key, steps, rate = jax.random.key(1), 5, 0.1
    solve = mc.descend(optax.sgd(rate), steps)

    @partial(jax.jit, static_argnames=("scheme", "control"))
    def estimate(beta, scheme="forward", control=False):
        estimator = mc.Contrastive(beta, scheme, control=control)
        return meta_grad(problem, solve, estimator, theta, task, key)["omega"]

    _, velocity = jax.jit(lambda: nudged_run(problem, theta, task, key, steps, rate))()
    return estimate, -2 * jnp.exp(theta["log_lam"]) * velocity


def test_symmetric_contrast_of_a_sampling_learner_has_a_limit(sampled):
    estimate, limit = sampled
    # beta^2 is 1e-10 and round-off over beta 1e-11.
    assert relative_error(estimate(1e-5, scheme="symmetric"), limit) < 1e-9


def test_forward_contrast_of_a_sampling_learner_has_a_limit_with_control(sampled):
    estimate, limit = sampled
    # Curvatures below 1 and five steps of 0.1: the error of first order is below beta.
    assert relative_error(estimate(1e-6, control=True), limit) < 1e-6


def test_forward_contrast_of_a_sampling_learner_diverges_without_control(sampled):
    estimate, _ = sampled
    large, small = (float(jnp.linalg.norm(estimate(beta))) for beta in (1e-5, 1e-6))
    assert small / large == pytest.approx(10, rel=1e-3)


# Encoders


def with_encoder():
    """Logistic regression on learned features; and the same with the features in the losses."""
    encode = lambda theta, task: jax.tree.map(
        lambda leaf: jnp.tanh(leaf @ theta["body"]) if leaf.ndim == 2 else leaf, task
    )
    encoded = mc.Problem(logistic.init, logistic.inner, logistic.outer, encode=encode)
    inlined = mc.Problem(
        logistic.init,
        lambda phi, theta, task: logistic.inner(phi, theta, encode(theta, task)),
        lambda phi, theta, task: logistic.outer(phi, theta, encode(theta, task)),
    )
    theta, task = random_logistic(0)
    return encoded, inlined, theta | {"body": jnp.eye(3) + 0.3}, task


@pytest.mark.parametrize("scheme", ["forward", "symmetric"])
def test_encoding_first_is_encoding_within_the_losses(scheme):
    encoded, inlined, theta, task = with_encoder()
    solve, estimator = mc.descend(optax.sgd(0.2), 20), mc.Contrastive(0.3, scheme)
    one, other = (
        jax.jit(lambda p=p: meta_grad(p, solve, estimator, theta, task))()
        for p in (encoded, inlined)
    )
    # 40 steps of a few roundings each, divided by beta.
    assert relative_error(one, other) < 1e3 * EPS / 0.3
    assert float(jnp.linalg.norm(one["body"])) > 0.01


def test_what_an_encoder_passes_on_may_have_integer_leaves():
    problem = mc.Problem(
        init=lambda theta, z: jnp.zeros(()),
        inner=lambda phi, theta, z: jnp.sum(z["labels"] * (phi - z["feature"]) ** 2),
        outer=lambda phi, theta, z: phi**2,
        encode=lambda theta, task: {"labels": task, "feature": 2 * theta},
    )
    solve = lambda loss, phi0: 6 * loss.z["feature"] / (6 + loss.beta)
    found = meta_grad(problem, solve, mc.Contrastive(1e-3, "symmetric"), 1.5, jnp.array([1, 2, 3]))
    # phi_0 = 2 theta: L_out = 4 theta^2, whose slope is 12; error of order (beta / 6)^2.
    assert float(found) == pytest.approx(12, rel=1e-6)


def test_a_task_need_not_be_differentiable():
    settled = lambda task: jax.lax.while_loop(lambda c: c < 10.0, lambda c: 2 * c, task)
    problem = mc.Problem(
        init=lambda theta, task: theta,
        inner=lambda phi, theta, task: (phi - settled(task)) ** 2 + (phi - theta) ** 2,
        outer=lambda phi, theta, task: phi**2,
    )
    solve = mc.descend(optax.sgd(0.2), 100)
    found = meta_grad(
        problem, solve, mc.Contrastive(1e-3, "symmetric"), jnp.array(2.0), jnp.array(3.0)
    )
    # phi_0 = (12 + 2) / 2, d phi_0 / d theta = 1/2; the nudge leaves (beta / 2)^2.
    assert float(found) == pytest.approx(7.0, rel=1e-6)


# Diagnostics


def test_diagnostics_of_solved_phases():
    theta, task = random_quadratic(0)
    estimator = mc.Contrastive(0.1, "forward", 2)
    (value, told), _ = estimator.value_and_grad(quadratic, exact_quadratic, theta, task)
    phis = [quadratic_solution(theta, task, beta)[0] for beta in (0.0, 0.1, 0.2)]
    inner = [quadratic.inner(phi, theta, task) for phi in phis]
    outer = [quadratic.outer(phi, theta, task) for phi in phis]
    distance = [jnp.linalg.norm(phi - phis[0]) for phi in phis]
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=100 * EPS)
    close((value, told["inner"], told["outer"]), (outer[0], inner[0], outer[0]))
    close(told["nudged_inner"], inner[1:])
    close(told["nudged_outer"], outer[1:])
    close(told["distance"], distance[1:])
    # Round-off of a gradient whose terms are of order one.
    assert max(told["residual"], *told["nudged_residual"]) < 100 * EPS


def test_residual_is_the_gradient_norm_where_the_phase_stopped():
    theta, task = random_quadratic(0)
    solve = mc.descend(optax.sgd(0.1), 3)
    (_, told), _ = mc.Contrastive(0.5).value_and_grad(quadratic, solve, theta, task)
    loss = quadratic.loss(theta, task)
    free = solve(loss, theta["omega"]).phi
    nudged = solve(loss.nudged(0.5), free).phi
    norm = lambda loss, phi: float(jnp.linalg.norm(jax.grad(loss)(phi)))
    assert told["residual"] == pytest.approx(norm(loss, free), rel=100 * EPS)
    assert told["nudged_residual"] == [pytest.approx(norm(loss.nudged(0.5), nudged), rel=100 * EPS)]


@given(seed=st.integers(0, 2**32 - 1))
def test_a_nudge_lowers_the_outer_loss_and_raises_the_inner(seed):
    theta, task = random_quadratic(seed)
    estimator = mc.Contrastive(0.3)
    (_, told), _ = estimator.value_and_grad(quadratic, exact_quadratic, theta, task)
    assert told["nudged_outer"][0] < told["outer"]
    assert told["nudged_inner"][0] > told["inner"]


# A negative nudge without a minimum


def flat_inside(steep):
    """`L_in - beta L_out` has the curvature `2 - 2 steep beta`."""
    return mc.Problem(
        init=lambda theta, task: theta,
        inner=lambda phi, theta, task: (phi - theta) ** 2,
        outer=lambda phi, theta, task: steep * (phi - task) ** 2,
    )


@pytest.mark.parametrize("rule", [mc.Contrastive(0.5, "symmetric"), mc.Contrastive(-0.5)])
def test_a_negative_nudge_that_makes_the_problem_unbounded_is_explained(rule):
    theta, task = jnp.array(1.0), jnp.array(3.0)
    solve = mc.descend(optax.sgd(0.1), 100)
    with pytest.warns(RuntimeWarning, match=r"beta: the nudge of -0.5 .*unbounded below"):
        (_, said), _ = rule.value_and_grad(flat_inside(4.0), solve, theta, task)
    # The curvature is constant, and on the way from phi_0 it is what the quadratic has.
    assert float(said["nudged_curvature"][0]) == pytest.approx(2 - 2 * 4.0 * 0.5)
    with pytest.warns(RuntimeWarning, match="unbounded below"):
        jax.grad(mc.meta_loss(flat_inside(4.0), solve, rule))(theta, task)


@pytest.mark.parametrize("steep", [1.0, 3.9])
def test_a_negative_nudge_with_a_minimum_is_not_complained_of(steep):
    theta, task = jnp.array(1.0), jnp.array(3.0)
    rule = mc.Contrastive(0.25, "symmetric")
    solve = mc.descend(optax.sgd(0.1), 5)
    _, said = rule.value_and_grad(flat_inside(steep), solve, theta, task)[0]
    curvatures = [float(c) for c in said["nudged_curvature"]]
    assert curvatures == pytest.approx([2 - 2 * steep * 0.25, 2 + 2 * steep * 0.25])


def test_a_nudged_phase_that_overflows_is_explained_too():
    rule = mc.Contrastive(8.0, "symmetric")
    solve = mc.descend(optax.sgd(1.0), 1000)
    with pytest.warns(RuntimeWarning, match="unbounded below"):
        rule.value_and_grad(flat_inside(4.0), solve, jnp.array(1.0), jnp.array(3.0))


def test_where_values_are_traced_the_diagnostics_tell_it():
    @jax.jit
    def curvature(theta, task):
        rule, solve = mc.Contrastive(0.5, "symmetric"), mc.descend(optax.sgd(0.1), 100)
        return rule.value_and_grad(flat_inside(4.0), solve, theta, task)[0][1]["nudged_curvature"]

    assert float(curvature(jnp.array(1.0), jnp.array(3.0))[0]) < 0


# beta="auto"


@pytest.mark.parametrize("scheme", ["forward", "symmetric"])
def test_auto_takes_the_suggested_beta(scheme):
    theta, task = random_quadratic(0)
    solve = mc.descend(optax.sgd(0.1), 30)
    found = mc.accuracy.suggest_beta(quadratic, solve, theta, task, scheme)
    rule = mc.Contrastive("auto", scheme)
    (_, said), grad = jax.jit(lambda: rule.value_and_grad(quadratic, solve, theta, task))()
    assert float(said["beta"]) == pytest.approx(float(found.beta), rel=1e-6)
    assert float(said["expected_error"]) == pytest.approx(float(found.error), rel=1e-6)
    same = meta_grad(quadratic, solve, mc.Contrastive(float(found.beta), scheme), theta, task)
    assert relative_error(grad, same) < 1e-6


def test_auto_chooses_for_each_task_under_vmap():
    theta, _ = random_quadratic(0)
    tasks = jax.tree.map(lambda *x: jnp.stack(x), *[random_quadratic(s)[1] for s in range(3)])
    solve = mc.descend(optax.sgd(0.1), 30)
    rule = mc.Contrastive("auto")

    def one(theta, task):
        (_, said), _ = rule.value_and_grad(quadratic, solve, theta, task)
        return said["beta"]

    betas = jax.jit(jax.vmap(one, (None, 0)))(theta, tasks)
    assert len(set(np.asarray(betas).round(12))) == 3


@pytest.mark.parametrize(("beta", "scheme"), [("much", "forward"), ("auto", "holomorphic")])
def test_what_cannot_be_chosen_is_refused(beta, scheme):
    with pytest.raises(ValueError, match="beta: must be a number, or 'auto'"):
        mc.Contrastive(beta, scheme)
