from dataclasses import replace

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optax
import pytest
from cases import CASES, distance, normal

import metacontrast as mc
from metacontrast._conjugate_gradient import cg

H, A = (m @ m.T / 4 for m in (normal(0, 4, 4), normal(1, 4, 4)))
X, Y = normal(2, 4), normal(3, 4)
THETA, RATE = mc.Synapse(normal(4, 4), jnp.array([0.0, -0.3, 0.2, 0.1])), 0.1
QUADRATIC = mc.Problem(
    init=lambda theta, task: theta.omega,
    inner=lambda phi, theta, task: (phi - X) @ H @ (phi - X) + theta.pull(phi),
    outer=lambda phi, theta, task: (phi - Y) @ A @ (phi - Y) + theta.omega @ phi,
)
LAM = jnp.exp(THETA.log_lam)
PHI = jnp.linalg.solve(H + jnp.diag(LAM), H @ X + LAM * THETA.omega)
SLOPE = 2 * A @ (PHI - Y) + THETA.omega  # dL_out/dphi


def run(estimator, solver=None):
    solver = mc.closed_form() if solver is None else solver
    return mc.meta_gradient(QUADRATIC, solver, estimator)(THETA, None)


def saddle(curvature):
    """L_in = phi_1^2 + curvature phi_2^2 - theta phi, of which the solver returns what it likes."""
    problem = mc.Problem(
        init=lambda theta, task: jnp.zeros(2),
        inner=lambda phi, theta, task: phi[0] ** 2 + curvature * phi[1] ** 2 - theta @ phi,
        outer=lambda phi, theta, task: jnp.sum((phi - 1.0) ** 2),
    )
    return problem, (lambda loss, phi: phi), jnp.array([0.3, 0.2]), None


def test_cg_is_lineax_cg():
    root, b = normal(0, 9, 9), normal(1, 9)
    matrix = root @ root.T + jnp.eye(9)
    operator = lx.MatrixLinearOperator(matrix, lx.positive_semidefinite_tag)
    for iterations in (1, 3, 9):
        ours = cg(lambda v: matrix @ v, b, iterations)
        theirs = lx.linear_solve(operator, b, lx.CG(0.0, 0.0, max_steps=iterations), throw=False)
        np.testing.assert_allclose(ours.x, theirs.value, rtol=1e-9)
        true = jnp.linalg.norm(b - matrix @ ours.x) / jnp.linalg.norm(b)
        np.testing.assert_allclose(ours.linear_residual, true, rtol=1e-6, atol=1e-14)
        assert ours.iterations == iterations


def test_cg_stops_when_it_is_done():
    zero = cg(lambda v: v, jnp.zeros(3), 10)
    assert zero.iterations == 0 and jnp.all(zero.x == 0) and zero.linear_residual == 0
    once = cg(lambda v: 2 * v, jnp.ones(3), 10)
    assert once.iterations == 1 and jnp.allclose(once.x, 0.5)
    both = jax.vmap(lambda s: cg(lambda v: s * v, jnp.ones(3), 10).x)(jnp.array([1.0, 4.0]))
    np.testing.assert_allclose(both[:, 0], [1.0, 0.25])


def test_identity_is_t1_t2_by_hand():
    by_hand = mc.Synapse(PHI + 2 * LAM * SLOPE, -2 * LAM * (PHI - THETA.omega) * SLOPE)
    assert distance(run(mc.Implicit("identity")).by_theta, by_hand) < 1e-11


@pytest.mark.filterwarnings("ignore:the meta-gradient may be wrong")
def test_neumann_of_one_term_is_identity_times_rate():
    one, whole = run(mc.Implicit("neumann", 1, rate=0.01)), run(mc.Implicit("identity"))
    direct = mc.Synapse(PHI, jnp.zeros(4))
    scaled = jax.tree.map(lambda d, w: d + 0.01 * (w - d), direct, whole.by_theta)
    assert distance(one.by_theta, scaled) < 1e-12


def test_neumann_is_backpropagation_through_the_last_steps():
    # Recurrent backpropagation: at the fixed point, K terms are K truncated steps of SGD.
    unrolled = run(mc.Unrolled(truncate=7), mc.descend(optax.sgd(RATE), 400)).by_theta
    assert distance(run(mc.Implicit("neumann", 7, rate=RATE)).by_theta, unrolled) < 1e-10


def first_order_only(loss):
    """The same values and slopes, of which no second derivative knows."""

    def straight(phi, theta, task):
        at = jax.lax.stop_gradient((phi, theta))
        way = jax.tree.map(jnp.subtract, (phi, theta), at)
        value, slope = jax.value_and_grad(lambda at: loss(*at, task))(at)
        return jax.lax.stop_gradient(value) + optax.tree.vdot(jax.lax.stop_gradient(slope), way)

    return straight


@pytest.mark.parametrize("method", ["cg", "neumann"])
def test_hessian_free_takes_no_second_derivatives(method):
    rule = mc.Implicit(method, 30, rate=RATE)
    blind = replace(QUADRATIC, inner=first_order_only(QUADRATIC.inner))
    free = replace(rule, hessian_free=True)
    found = mc.meta_gradient(blind, lambda loss, phi: PHI, free)(THETA, None).by_theta
    # Central differences of gradients err by about 1e-10 of what is of order ten.
    assert distance(found, run(rule).by_theta) < 1e-8


@pytest.mark.parametrize("method", ["exact", "cg"])
def test_damping_is_added_to_the_hessian(method):
    damped = run(mc.Implicit(method, 30, damping=0.7)).by_theta
    u = jnp.linalg.solve(2 * H + jnp.diag(2 * LAM + 0.7), SLOPE)
    np.testing.assert_allclose(damped.omega, PHI + 2 * LAM * u, rtol=1e-9)


@pytest.mark.filterwarnings("ignore:the meta-gradient may be wrong")
def test_diagnostics():
    told = run(mc.Implicit("cg", 2)).aux
    assert told["iterations"] == 2 and told["linear_residual"] > 1e-3 and told["curvature"] > 0
    told = run(mc.Implicit("cg", 30)).aux
    assert told["iterations"] <= 6 and told["linear_residual"] < 1e-14
    told = run(mc.Implicit("exact")).aux
    assert told["linear_residual"] < 1e-13 and told["residual"] < 1e-11
    diverged = run(mc.Implicit("neumann", 50, rate=1.0)).aux
    assert diverged["linear_residual"] > 1


@pytest.mark.filterwarnings("ignore:the meta-gradient may be wrong")
def test_negative_curvature_is_explained():
    problem, solve, theta, task = saddle(-0.5)
    with pytest.raises(ValueError, match=r"negative curvature .*add damping"):
        mc.meta_gradient(problem, solve, mc.Implicit("cg"))(theta, task)
    with pytest.raises(ValueError, match="negative curvature"):
        jax.grad(mc.meta_loss(problem, solve, mc.Implicit("cg")))(theta, task)
    damped = mc.meta_gradient(problem, solve, mc.Implicit("cg", damping=1.5))(theta, task)
    assert jnp.all(jnp.isfinite(damped.by_theta))


def test_negative_curvature_is_nan_where_nothing_can_be_raised():
    problem, solve, theta, task = saddle(-0.5)
    meta = jax.jit(mc.meta_gradient(problem, solve, mc.Implicit("cg")))(theta, task)
    assert jnp.all(jnp.isnan(meta.by_theta)) and meta.aux["curvature"] <= 0


def test_nothing_finite_comes_out_of_a_curvature_that_is_no_number():
    # The second derivative of a root at 0 is infinite, and its product with 0 is NaN.
    problem = mc.Problem(
        init=lambda theta, task: jnp.zeros(2),
        inner=lambda phi, theta, task: jnp.sum(jnp.sqrt(phi**2)) - theta @ phi,
        outer=lambda phi, theta, task: jnp.sum((phi - 1.0) ** 2),
    )
    solver = mc.as_solver(lambda loss, phi: phi)
    meta = jax.jit(mc.meta_gradient(problem, solver, mc.Implicit("cg")))(jnp.ones(2), None)
    assert jnp.all(jnp.isnan(meta.by_theta))


@pytest.mark.wrong_types
def test_bad_arguments():
    for match, bad in {
        "method: must be 'cg', 'neumann', 'identity' or 'exact', not 'lu'": {"method": "lu"},
        "iterations: must be": {"iterations": 0},
        "damping: must be": {"damping": -1.0},
        "rate: the Neumann series needs": {"method": "neumann"},
    }.items():
        with pytest.raises(ValueError, match=match):
            mc.Implicit(**bad)
    large = mc.Problem(lambda *_: jnp.zeros(5000), lambda p, t, _: t * p @ p, lambda p, *_: p @ p)
    with pytest.raises(ValueError, match="'exact' makes a matrix of all pairs of the 5000"):
        mc.meta_gradient(large, lambda _, phi: phi, mc.Implicit("exact"))(jnp.ones(()), None)


def test_reptile_pulls_the_displacement_back_through_init():
    problem = mc.Problem(
        init=lambda theta, task: {"w": 3.0 * theta["a"]},
        inner=lambda phi, theta, task: jnp.sum((phi["w"] - task) ** 2),
        outer=lambda phi, theta, task: jnp.sum(phi["w"]),
    )
    theta, task = {"a": jnp.array([1.0, -1.0])}, jnp.array([2.0, 0.0])
    phi = jnp.array([3.0, -3.0])
    for _ in range(3):
        phi = phi - 0.1 * 2 * (phi - task)
    solve = mc.descend(optax.sgd(0.1), 3)
    value, grad, *_ = mc.meta_gradient(problem, solve, mc.Reptile())(theta, task)
    np.testing.assert_allclose(grad["a"], 3.0 * (3.0 * theta["a"] - phi), rtol=1e-12)
    np.testing.assert_allclose(value, jnp.sum(phi), rtol=1e-12)


def test_reptile_needs_an_init_that_is_learned():
    learner, theta, task, _ = CASES["ridge"]()
    still = replace(learner, init=lambda theta, task: jnp.zeros(3))
    with pytest.raises(ValueError, match=r"^theta: problem\.init does not depend on theta\.omega,"):
        mc.meta_gradient(still, mc.closed_form(), mc.Reptile())(theta, task)
