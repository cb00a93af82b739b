"""The first-order solvers against loops written out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import (
    EPS,
    batch,
    logistic,
    meta_grad,
    newton,
    nudged_loss,
    quadratic,
    quadratic_solution,
    random_logistic,
    random_quadratic,
    record,
    relative_error,
)

import metacontrast as mc
from metacontrast._loss import as_loss
from metacontrast._solver._base import Start, run_solver


def adam(loss, phi, steps, rate=0.1, b1=0.9, b2=0.999, eps=1e-8):
    """Adam (Kingma and Ba, 2015), algorithm 1."""
    m = v = jnp.zeros_like(phi)
    for t in range(1, steps + 1):
        g = jax.grad(loss)(phi)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        phi = phi - rate * (m / (1 - b1**t)) / (jnp.sqrt(v / (1 - b2**t)) + eps)
    return phi


def test_descend_is_the_loop_written_out():
    theta, task = random_logistic(0)
    loss = nudged_loss(logistic, theta, task, 0.3)
    solution = mc.descend(optax.adam(0.1), 6)(loss, theta.omega)
    assert relative_error(solution.phi, adam(loss, theta.omega, 6)) < 1e3 * EPS
    assert solution.steps == 6


def test_descend_takes_a_plain_function():
    found = mc.descend(optax.sgd(0.25), 3)(lambda phi: jnp.sum(phi**2), jnp.array([8.0, -16.0]))
    np.testing.assert_array_equal(found.phi, [1.0, -2.0])


def test_a_plain_function_is_an_inner_loss_and_nothing_else():
    loss, phi = as_loss(lambda phi: 3 * phi), jnp.array(2.0)
    assert [float(of(phi)) for of in (loss, loss.inner, loss.outer)] == [6.0, 6.0, 0.0]
    assert as_loss(loss) is loss


def test_descend_draws_one_view_a_step():
    problem = mc.Problem(
        init=lambda theta, task: jnp.zeros(()),
        inner=lambda phi, theta, task: 0.5 * (phi - task) ** 2,
        outer=lambda phi, theta, task: phi,
        sample=lambda task, key: jax.random.normal(key),
    )
    key = jax.random.key(7)
    phi = 0.0
    for t in range(4):
        phi += 0.5 * (jax.random.normal(jax.random.split(jax.random.fold_in(key, t))[0]) - phi)
    solution = mc.solve_inner(problem, mc.descend(optax.sgd(0.5), 4), 0.0, 0.0, key)
    assert float(solution.phi) == pytest.approx(float(phi), rel=100 * EPS)


def test_descend_goes_on_where_its_memory_stopped():
    theta, task = random_logistic(0)
    loss = mc.Loss(logistic, theta, task)
    run = lambda steps: mc.descend(optax.adam(0.1), steps)
    first = run(3)(loss, theta.omega)
    second = run_solver(run(4), loss, Start(first.phi, first.memory))
    assert relative_error(second.phi, run(7)(loss, theta.omega).phi) < 100 * EPS


def test_learning_starts_where_the_problem_says():
    theta, task = random_quadratic(0)
    problem = mc.Problem(lambda theta, task: task.outer_centre, quadratic.inner, quadratic.outer)
    solver = record(mc.as_solver(lambda loss, phi: phi))
    solution = mc.solve_inner(problem, solver, theta, task)
    assert solver.betas == [0.0]
    np.testing.assert_array_equal(solution.phi, task.outer_centre)
    assert (solution.memory, solution.steps, solution.converged) == (None, 1, None)


def test_until_converged_reaches_its_tolerance_and_says_so():
    theta, task = random_quadratic(0)
    loss = nudged_loss(quadratic, theta, task, 0.5)
    solution = mc.until_converged(optax.sgd(0.2), tol=1e-8)(loss, theta.omega)
    assert solution.converged
    gradient = jnp.linalg.norm(jax.grad(loss)(solution.phi))
    # One step of 0.2 shrinks the gradient by less than 0.2 times the largest curvature, below 0.99.
    assert 1e-10 < gradient <= 1e-8
    exact, hessian = quadratic_solution(theta, task, 0.5)
    distance = jnp.linalg.norm(solution.phi - exact)
    assert distance <= 1e-8 / jnp.linalg.eigvalsh(hessian).min()


def test_until_converged_takes_no_step_too_many():
    halve = lambda phi: 0.5 * jnp.sum(phi**2)  # the gradient is phi, a step of 0.5 halves it
    solution = mc.until_converged(optax.sgd(0.5), tol=0.125)(halve, jnp.array([1.0]))
    assert solution.steps == 3
    assert solution.phi == 0.125


def test_until_converged_stops_at_its_limit_and_says_so():
    theta, task = random_logistic(0)
    loss = mc.Loss(logistic, theta, task)
    solution = mc.until_converged(optax.adam(0.1), 1e-12, max_steps=6)(loss, theta.omega)
    assert solution.steps == 6
    assert not solution.converged
    assert relative_error(solution.phi, adam(loss, theta.omega, 6)) < 1e3 * EPS


@pytest.mark.parametrize("start", [jnp.nan, 2.0], ids=["at once", "after a while"])
def test_until_converged_ends_on_nan_and_does_not_call_it_converged(start):
    # Steps of 2 on phi^4 overshoot ever farther, to infinity - infinity.
    diverging = lambda phi: jnp.sum(phi**4)
    solution = mc.until_converged(optax.sgd(2.0), 1e-6)(diverging, jnp.array([start]))
    assert solution.steps < 20
    assert not solution.converged
    assert not jnp.all(jnp.isfinite(solution.phi))


def test_until_converged_under_vmap_leaves_the_fast_tasks_where_they_were():
    theta, tasks = batch(random_quadratic, [0, 1, 2])
    solve = mc.until_converged(optax.sgd(0.2), tol=1e-6)
    run = jax.jit(lambda task: mc.solve_inner(quadratic, solve, theta, task))
    together = jax.vmap(run)(tasks)
    apart = [run(random_quadratic(seed)[1]) for seed in (0, 1, 2)]
    assert len(set(together.steps.tolist())) > 1
    np.testing.assert_array_equal(together.steps, [solution.steps for solution in apart])
    for phi, solution in zip(together.phi, apart, strict=True):
        assert relative_error(phi, solution.phi) < 1e3 * EPS


def test_until_converged_solves_the_nudged_phases_of_a_contrast():
    theta, task = random_logistic(0)
    solve = mc.until_converged(optax.sgd(0.5), tol=1e-10)
    grads = [
        meta_grad(logistic, solver, mc.Contrastive(0.1), theta, task)
        for solver in (solve, newton(8))
    ]
    # Residuals of 1e-10 over a curvature above 0.2, over beta, twice.
    assert relative_error(*grads) < 1e-7


@pytest.mark.parametrize("carry", [False, True])
def test_state_of_until_converged_can_be_carried(carry):
    theta, task = random_logistic(0)
    loss = mc.Loss(logistic, theta, task)
    limited = lambda steps: mc.until_converged(optax.adam(0.1), 1e-12, max_steps=steps)
    first = limited(3)(loss, theta.omega)
    memory = first.memory if carry else None
    second = run_solver(limited(4), loss, Start(first.phi, memory))
    error = relative_error(second.phi, adam(loss, theta.omega, 7))
    assert error < 1e3 * EPS if carry else error > 1e-3


@pytest.mark.parametrize("steps", [0, -1, 2.0, None, "3"])
@pytest.mark.wrong_types
def test_steps_below_one_are_refused(steps):
    bad = TypeError if steps in (None, "3") else ValueError
    with pytest.raises(bad, match=r"^steps: must be a whole number of at least 1, not"):
        mc.descend(optax.sgd(0.1), steps)
    with pytest.raises(bad, match=r"^steps"):
        mc.gauss_newton(steps)
    with pytest.raises(bad, match=r"^max_steps"):
        mc.until_converged(optax.sgd(0.1), 1e-3, max_steps=steps)


@pytest.mark.wrong_types
def test_steps_may_be_a_numpy_integer():
    found = mc.descend(optax.sgd(0.25), np.int64(2))(lambda phi: phi**2, jnp.array(4.0))
    assert found.phi == 1.0


@pytest.mark.parametrize("tol", [0.0, -1e-3, float("nan")])
def test_tolerance_that_is_never_met_is_refused(tol):
    with pytest.raises(ValueError, match=r"^tol"):
        mc.until_converged(optax.sgd(0.1), tol)
