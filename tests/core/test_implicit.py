import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optax
import pytest
from matrix_problems import CASES, distance, exact, normal, solver

import metacontrast as mc
from metacontrast._linear import cg


def run(estimator, name="quadratic"):
    learner, theta, task, _ = CASES[name]()
    return estimator.value_and_grad(learner, solver(name, "newton_cg"), theta, task)


def saddle(curvature):
    """L_in = phi_1^2 + curvature phi_2^2 - theta phi, of which the solver returns what it likes."""
    problem = mc.Problem(
        init=lambda theta, task: jnp.zeros(2),
        inner=lambda phi, theta, task: phi[0] ** 2 + curvature * phi[1] ** 2 - theta @ phi,
        outer=lambda phi, theta, task: jnp.sum((phi - 1.0) ** 2),
    )
    return problem, (lambda loss, phi0: phi0), jnp.array([0.3, 0.2]), None


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
    nought = cg(lambda v: v, jnp.zeros(3), 10)
    assert nought.iterations == 0 and jnp.all(nought.x == 0) and nought.linear_residual == 0
    once = cg(lambda v: 2 * v, jnp.ones(3), 10)
    assert once.iterations == 1 and jnp.allclose(once.x, 0.5)
    both = jax.vmap(lambda s: cg(lambda v: s * v, jnp.ones(3), 10).x)(jnp.array([1.0, 4.0]))
    np.testing.assert_allclose(both[:, 0], [1.0, 0.25])


def test_identity_is_t1_t2_by_hand():
    __, theta, task, _ = CASES["quadratic"]()
    phi, _ = exact("quadratic")
    v = 2 * task["a"] @ (phi - task["y"]) + theta["omega"]  # dL_out/dphi
    lam, gap = jnp.exp(theta["log_lam"]), phi - theta["omega"]
    by_hand = {"omega": phi + 2 * lam * v, "log_lam": -2 * lam * gap * v}
    assert distance(run(mc.Implicit("identity"))[1], by_hand) < 1e-11


def test_neumann_of_one_term_is_identity_times_rate():
    phi, _ = exact("quadratic")
    one, whole = run(mc.Implicit("neumann", 1, rate=0.01))[1], run(mc.Implicit("identity"))[1]
    direct = {"omega": phi, "log_lam": jnp.zeros(4)}
    scaled = jax.tree.map(lambda d, w: d + 0.01 * (w - d), direct, whole)
    assert distance(one, scaled) < 1e-12


def test_neumann_is_backpropagation_through_the_last_steps():
    # Recurrent backpropagation: at the fixed point, K terms are K truncated steps of SGD.
    learner, theta, task, rate = CASES["quadratic"]()
    solve = mc.descend(optax.sgd(rate), 400)
    unrolled = mc.Unrolled(truncate=7).value_and_grad(learner, solve, theta, task)[1]
    assert distance(run(mc.Implicit("neumann", 7, rate=rate))[1], unrolled) < 1e-10


def test_damping_is_added_to_the_hessian():
    for method in ("exact", "cg"):
        __, theta, task, _ = CASES["quadratic"]()
        damped = run(mc.Implicit(method, 30, damping=0.7))[1]
        phi, _ = exact("quadratic")
        lam = jnp.exp(theta["log_lam"])
        v = 2 * task["a"] @ (phi - task["y"]) + theta["omega"]
        u = jnp.linalg.solve(2 * task["h"] + jnp.diag(2 * lam + 0.7), v)
        np.testing.assert_allclose(damped["omega"], phi + 2 * lam * u, rtol=1e-9)


def test_diagnostics():
    (_, told), _ = run(mc.Implicit("cg", 2))
    assert told["iterations"] == 2 and told["linear_residual"] > 1e-3 and told["curvature"] > 0
    (_, told), _ = run(mc.Implicit("cg", 30))
    assert told["iterations"] <= 6 and told["linear_residual"] < 1e-14
    (_, told), _ = run(mc.Implicit("exact"))
    assert told["linear_residual"] < 1e-13 and told["residual"] < 1e-11
    (_, diverged), _ = run(mc.Implicit("neumann", 50, rate=1.0))
    assert diverged["linear_residual"] > 1


def test_negative_curvature_is_explained():
    problem, solve, theta, task = saddle(-0.5)
    with pytest.raises(ValueError, match=r"negative curvature .*add damping"):
        mc.Implicit("cg").value_and_grad(problem, solve, theta, task)
    with pytest.raises(ValueError, match="negative curvature"):
        jax.grad(mc.meta_loss(problem, solve, mc.Implicit("cg")))(theta, task)
    _, damped = mc.Implicit("cg", damping=1.5).value_and_grad(problem, solve, theta, task)
    assert jnp.all(jnp.isfinite(damped))


def test_negative_curvature_is_nan_where_nothing_can_be_raised():
    problem, solve, theta, task = saddle(-0.5)
    estimate = lambda theta: mc.Implicit("cg").value_and_grad(problem, solve, theta, task)
    (_, told), grad = jax.jit(estimate)(theta)
    assert jnp.all(jnp.isnan(grad)) and told["curvature"] <= 0


def test_bad_arguments():
    for match, bad in {
        "method: unknown 'lu'": {"method": "lu"},
        "iterations: must be": {"iterations": 0},
        "damping: must be": {"damping": -1.0},
        "rate: the Neumann series needs": {"method": "neumann"},
    }.items():
        with pytest.raises(ValueError, match=match):
            mc.Implicit(**bad)
    large = mc.Problem(lambda *_: jnp.zeros(5000), lambda p, *_: p @ p, lambda p, *_: p @ p)
    with pytest.raises(ValueError, match="'exact' makes a matrix of all pairs of the 5000"):
        mc.Implicit("exact").value_and_grad(large, lambda _, phi: phi, jnp.ones(()), None)


def test_reptile_pulls_the_displacement_back_through_init():
    problem = mc.Problem(
        init=lambda theta, task: {"w": 3.0 * theta["a"]},
        inner=lambda phi, theta, task: jnp.sum((phi["w"] - task) ** 2),
        outer=lambda phi, theta, task: jnp.sum(phi["w"]),
    )
    theta, task = {"a": jnp.array([1.0, -1.0]), "b": jnp.ones(())}, jnp.array([2.0, 0.0])
    phi = jnp.array([3.0, -3.0])
    for _ in range(3):
        phi = phi - 0.1 * 2 * (phi - task)
    solve = mc.descend(optax.sgd(0.1), 3)
    (value, _), grad = mc.Reptile().value_and_grad(problem, solve, theta, task)
    np.testing.assert_allclose(grad["a"], 3.0 * (3.0 * theta["a"] - phi), rtol=1e-12)
    assert grad["b"] == 0
    np.testing.assert_allclose(value, jnp.sum(phi), rtol=1e-12)


def test_reptile_needs_an_init_that_is_learned():
    learner, theta, task, _ = CASES["ridge"]()
    with pytest.raises(ValueError, match=r"problem\.init: does not depend on theta"):
        mc.Reptile().value_and_grad(learner, solver("ridge", "newton_cg"), theta, task)
