"""Levenberg-Marquardt: exact where the residuals are linear, and elsewhere good."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import (
    EPS,
    batch,
    closed_form,
    meta_grad,
    network,
    nudged_loss,
    quadratic,
    random_network,
    random_quadratic,
    random_ridge,
    relative_error,
    ridge,
    ridge_solution,
)

import metacontrast as mc
from metacontrast._loss import LinearNudge, OuterNudge


def by_layer(theta, seed=0):
    """A strength for every weight, above that of the random problems: the pole is no nearer."""
    rng = np.random.default_rng(seed)
    strengths = lambda leaf: jnp.asarray(rng.uniform(0.5, 1, leaf.shape))
    return theta._replace(log_lam=jax.tree.map(strengths, theta.omega))


def loss_at(problem, theta, task, beta):
    return nudged_loss(problem, theta, task, beta) if beta else mc.Loss(problem, theta, task)


# A solve in sample space and one in weight space, of conditions below 1e4.
ROUND_OFF = 1e4 * EPS
# The damping falls threefold a step from 1: after n steps a linear problem's error has fallen by
# the product of mu / (1 + mu), below 3^-(n (n - 1) / 2); 10 steps leave less than 1e-20.
TEN = mc.gauss_newton(10)


@pytest.mark.parametrize("beta", [0.0, 0.5, 10.0, -0.5])
@pytest.mark.parametrize("varied", [False, True], ids=["one strength", "a strength a weight"])
def test_solves_ridge_regression(beta, varied):
    theta, task = random_ridge(0)
    theta = by_layer(theta) if varied else theta
    found = TEN(loss_at(ridge, theta, task, beta), jnp.ones(9))
    # Conditioning: beta = -0.5 is half way to the pole at -1.
    assert relative_error(found.phi, ridge_solution(theta, task, beta)[0]) < ROUND_OFF
    assert found.steps == 10


@pytest.mark.parametrize("beta", [0.0, 0.5, -0.5])
@pytest.mark.parametrize("examples", [4, 9, 30])
def test_solves_in_the_space_of_the_data_or_of_the_weights(beta, examples):
    # Nine weights, and twice as many residuals where there is a nudge: fewer, as many, and more.
    theta, task = random_ridge(0, examples)
    found = TEN(loss_at(ridge, theta, task, beta), jnp.ones(9))
    assert relative_error(found.phi, ridge_solution(theta, task, beta)[0]) < ROUND_OFF


def test_a_step_is_the_damped_newton_step_in_weight_space():
    theta, task = random_ridge(0)
    theta, beta, mu = by_layer(theta), 0.3, 0.7
    (x, y), (v, u) = task
    phi, lam = jnp.ones(9), jnp.exp(theta.log_lam)
    half_slope = x.T @ (x @ phi - y) + beta * v.T @ (v @ phi - u) + lam * (phi - theta.omega)
    matrix = x.T @ x + beta * v.T @ v + (1 + mu) * jnp.diag(lam)
    expected = phi - jnp.linalg.solve(matrix, half_slope)
    found = mc.gauss_newton(1, damping=mu)(loss_at(ridge, theta, task, beta), phi)
    assert relative_error(found.phi, expected) < ROUND_OFF


@pytest.mark.parametrize("beta", [0.1, -0.1])
def test_contrast_is_that_of_the_closed_form(beta):
    theta, task = random_ridge(0)
    found, expected = (
        meta_grad(ridge, solve, mc.Contrastive(beta), theta, task)
        for solve in (TEN, closed_form(ridge_solution))
    )
    assert relative_error(found, expected) < ROUND_OFF / abs(beta)


@pytest.mark.parametrize(
    ("beta", "varied"), [(0.0, False), (0.0, True), (0.3, True), (-0.05, False)]
)
def test_solves_a_network_to_round_off(beta, varied):
    theta, task = random_network(2)
    theta = by_layer(theta) if varied else theta
    loss = loss_at(network, theta, task, beta)
    start = optax.tree.norm(jax.grad(loss)(theta.omega))
    solution = jax.jit(lambda: mc.gauss_newton(60)(loss, theta.omega))()
    assert optax.tree.norm(jax.grad(loss)(solution.phi)) < 1e-8 * start


def test_agrees_with_gradient_descent_on_a_network():
    theta, task = random_network(2)
    loss = loss_at(network, theta, task, 0.3)
    descent = jax.jit(lambda: mc.until_converged(optax.sgd(0.02), 1e-10)(loss, theta.omega))()
    newton = jax.jit(lambda: mc.gauss_newton(60)(loss, theta.omega))()
    assert descent.converged
    assert relative_error(newton.phi, descent.phi) < 1e-8


def test_a_step_that_would_raise_the_loss_is_not_taken_but_damped():
    # From 3, the full step for atan(phi)^2 overshoots to -3.4, where the loss is higher; five
    # rejections raise the damping from 0.001 to 1, and the sixth step is short enough.
    bent = mc.LeastSquares(
        lambda phi, theta, example: jnp.arctan(phi),
        lambda task: task,
        prior=lambda theta: mc.Synapse(None, theta),
    )
    start, task = jnp.array([3.0]), jnp.zeros(1)
    loss = mc.Loss(mc.Problem(lambda theta, task: start, bent, bent), jnp.array(-4.0), task)
    run = lambda steps: jax.jit(lambda: mc.gauss_newton(steps, damping=1e-3)(loss, start).phi)()
    losses = [loss(start), *(loss(run(steps)) for steps in (1, 6, 8, 30))]
    assert losses[0] == losses[1]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 1e-12


def test_network_moves_in_proportion_to_a_small_nudge():
    theta, task = random_network(2)
    solve = mc.gauss_newton(60)
    rule = lambda beta: mc.meta_gradient(network, solve, mc.Contrastive(beta))
    distance = jax.jit(lambda beta: rule(beta)(theta, task).aux["distance"][0])
    # The deviation from proportionality is of order beta, and its factor below 100.
    assert float(distance(2e-5) / distance(1e-5)) == pytest.approx(2, rel=1e-3)


def test_maps_over_tasks():
    theta, tasks = batch(random_ridge, [0, 1])
    together = jax.jit(jax.vmap(lambda task: mc.solve_inner(ridge, TEN, theta, task).phi))(tasks)
    for seed, phi in enumerate(together):
        assert relative_error(phi, ridge_solution(theta, random_ridge(seed)[1])[0]) < ROUND_OFF


def test_a_prior_without_omega_pulls_to_zero():
    theta, task = random_ridge(0)
    inner = mc.LeastSquares(
        ridge.inner.residual, ridge.inner.data, prior=lambda theta: theta._replace(omega=None)
    )
    problem = mc.Problem(ridge.init, inner, ridge.outer)
    centred = theta._replace(omega=jnp.zeros(9))
    found = TEN(mc.Loss(problem, theta, task), theta.omega)
    assert relative_error(found.phi, ridge_solution(centred, task)[0]) < ROUND_OFF


def test_residuals_of_any_shape_count_in_full():
    residual = lambda phi, theta, example: jnp.outer(phi, phi) - example
    loss = mc.LeastSquares(residual, data=lambda z: z)
    examples = jnp.arange(12.0).reshape(3, 2, 2)
    phi = jnp.array([1.0, 2.0])
    expected = sum(float(jnp.sum((jnp.outer(phi, phi) - e) ** 2)) for e in examples)
    assert float(loss(phi, None, examples)) == pytest.approx(expected, rel=100 * EPS)


@pytest.mark.parametrize(
    "nudge",
    [
        None,
        OuterNudge(-0.4),
        LinearNudge(0.3, jnp.arange(9.0) / 10),
        LinearNudge(0.3, jnp.arange(9.0) / 10, jnp.full(9, 0.5), damping=0.4),
    ],
    ids=["free", "outer", "linear", "anchored"],
)
def test_a_split_is_the_loss_but_for_a_constant(nudge):
    theta, task = random_ridge(0)
    loss = mc.Loss(ridge, by_layer(theta), task, nudge=nudge)
    phi, d = jnp.linspace(-1, 1, 9), jnp.cos(jnp.arange(9.0))
    split = loss.split(phi)

    def put_together(d):
        squares = [
            s.weight * jnp.sum(jax.vmap(lambda row, s=s: s.residual(phi + d, row))(s.examples) ** 2)
            for s in split.squares
        ]
        return sum(squares) + split.slope @ d + split.stiffness @ d**2

    found = put_together(d) - put_together(0 * d)
    # Sums of some hundred terms of order one to ten.
    assert float(found) == pytest.approx(float(loss(phi + d) - loss(phi)), rel=1e4 * EPS)


LINEAR = mc.LeastSquares(lambda phi, theta, e: phi @ e.x - e.y, lambda task: task.test)


@pytest.mark.parametrize(
    ("inner", "outer"),
    [(quadratic.inner, quadratic.outer), (ridge.inner, quadratic.outer), (LINEAR, LINEAR)],
    ids=["no squares", "outer without squares", "no prior"],
)
def test_losses_it_cannot_take_apart_are_refused(inner, outer):
    theta, task = random_quadratic(0) if inner is quadratic.inner else random_ridge(0)
    loss = nudged_loss(mc.Problem(quadratic.init, inner, outer), theta, task, 0.1)
    with pytest.raises(TypeError, match=r"gauss_newton needs .* LeastSquares"):
        mc.gauss_newton(3)(loss, theta.omega)


def test_a_plain_function_is_refused():
    with pytest.raises(TypeError, match="gauss_newton needs"):
        mc.gauss_newton(3)(lambda phi: jnp.sum(phi**2), jnp.ones(2))


@pytest.mark.parametrize("damping", [0.0, -1.0, float("nan"), float("inf")])
def test_damping_that_is_not_positive_is_refused(damping):
    with pytest.raises(ValueError, match=r"^damping"):
        mc.gauss_newton(3, damping=damping)


@pytest.mark.parametrize("damping", [None, 0.4])
def test_linear_nudges_are_solved_too(damping):
    theta, task = random_ridge(0)
    v = jnp.arange(9.0) / 10
    hessian = ridge_solution(theta, task)[1]
    start = jnp.ones(9)
    slope = jax.grad(mc.Loss(ridge, theta, task))(start)
    nudge = LinearNudge(0.3, v, phi_0=start, damping=damping)
    solution = mc.gauss_newton(14)(mc.Loss(ridge, theta, task).nudged(nudge), start)
    if damping is None:
        expected = ridge_solution(theta, task)[0] - 0.3 * jnp.linalg.solve(hessian, v)
    else:  # with its slope at the start taken out, only the nudge moves it
        expected = start - 0.3 * jnp.linalg.solve(hessian + damping * jnp.eye(9), v)
        assert jnp.linalg.norm(slope) > 1
    assert relative_error(solution.phi, expected) < 10 * ROUND_OFF
