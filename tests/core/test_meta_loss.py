"""meta_loss is an ordinary function: whatever JAX does to functions, it does to this one."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import (
    EPS,
    batch,
    closed_form,
    logistic,
    meta_grad,
    quadratic,
    quadratic_solution,
    random_logistic,
    random_quadratic,
    record,
    relative_error,
)

import metacontrast as mc

# Learners that stop early, and are flagged.
pytestmark = pytest.mark.filterwarnings("ignore:the meta-gradient may be wrong")
SOLVE = mc.descend(optax.sgd(0.2), 5)
CONTRAST = mc.Contrastive(0.3)
ESTIMATORS = [CONTRAST, mc.Unrolled(), mc.Implicit("identity")]
# Ten steps on numbers of order one, reordered by the compiler, divided by beta.
ROUND_OFF = 1e3 * EPS / 0.3


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_value_and_gradient_are_the_estimators_also_under_jit(estimator):
    theta, task = random_logistic(0)
    loss = mc.meta_loss(logistic, SOLVE, estimator)
    value, grad = jax.jit(jax.value_and_grad(loss))(theta, task)
    expected, rule, *_ = mc.meta_gradient(logistic, SOLVE, estimator)(theta, task)
    assert float(value) == pytest.approx(float(expected), rel=ROUND_OFF)
    assert relative_error(grad, rule) < ROUND_OFF
    assert float(loss(theta, task)) == pytest.approx(float(expected), rel=ROUND_OFF)


@pytest.mark.parametrize("estimator", [CONTRAST, mc.Unrolled()])
def test_both_gradients_at_once_are_each_by_itself(estimator):
    theta, task = random_quadratic(0)
    both = jax.grad(mc.meta_loss(quadratic, SOLVE, estimator), (0, 1))(theta, task)
    meta = mc.meta_gradient(quadratic, SOLVE, estimator)(theta, task)
    assert relative_error(both, (meta.by_theta, meta.by_z)) < ROUND_OFF


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_vmap_over_tasks_is_a_loop_over_tasks(estimator):
    theta, tasks = batch(random_logistic, [0, 1, 2])
    grad = jax.grad(mc.meta_loss(logistic, SOLVE, estimator))
    together = jax.jit(jax.vmap(grad, (None, 0)))(theta, tasks)
    single = [jax.jit(grad)(theta, random_logistic(seed)[1]) for seed in (0, 1, 2)]
    apart = jax.tree.map(lambda *leaves: jnp.stack(leaves), *single)
    assert relative_error(together, apart) < ROUND_OFF


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_mean_over_tasks_commutes_with_the_gradient(estimator):
    theta, tasks = batch(random_logistic, [0, 1, 2])
    loss = mc.meta_loss(logistic, SOLVE, estimator)
    of_mean = jax.grad(lambda theta: jnp.mean(jax.vmap(loss, (None, 0))(theta, tasks)))
    each = jax.vmap(jax.grad(loss), (None, 0))
    mean_of = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), jax.jit(each)(theta, tasks))
    assert relative_error(jax.jit(of_mean)(theta), mean_of) < ROUND_OFF


def test_tasks_in_a_scan_are_tasks_under_vmap():
    theta, tasks = batch(random_logistic, [0, 1, 2])
    loss = mc.meta_loss(logistic, SOLVE, CONTRAST)
    scanned = jax.grad(lambda theta: jnp.sum(jax.lax.map(lambda t: loss(theta, t), tasks)))
    mapped = jax.grad(lambda theta: jnp.sum(jax.vmap(loss, (None, 0))(theta, tasks)))
    assert relative_error(jax.jit(scanned)(theta), jax.jit(mapped)(theta)) < ROUND_OFF


def test_reparameterised_theta_obeys_the_chain_rule():
    theta, task = random_logistic(0)
    loss = mc.meta_loss(logistic, SOLVE, CONTRAST)
    softplus = lambda raw: theta._replace(log_lam=jnp.log(jax.nn.softplus(raw)))
    raw = jnp.array([0.3, -0.5, 1.0])
    found = jax.grad(lambda raw: loss(softplus(raw), task))(raw)
    slope = jax.nn.sigmoid(raw) / jax.nn.softplus(raw)
    np.testing.assert_allclose(
        found, slope * jax.grad(loss)(softplus(raw), task).log_lam, rtol=1e-12
    )


def test_regularisers_and_factors_compose():
    theta, task = random_logistic(0)
    loss = mc.meta_loss(logistic, SOLVE, CONTRAST)
    penalty = lambda theta: jnp.sum(theta.omega**2)
    found = jax.grad(lambda theta: 3 * loss(theta, task) + penalty(theta))(theta)
    parts = jax.grad(loss)(theta, task), jax.grad(penalty)(theta)
    expected = jax.tree.map(lambda a, b: 3 * a + b, *parts)
    assert relative_error(found, expected) < ROUND_OFF


def test_a_value_without_gradient_runs_the_free_phase_alone():
    theta, task = random_quadratic(0)
    solve = record(closed_form(quadratic_solution))
    loss = mc.meta_loss(quadratic, solve, mc.Contrastive(0.1, "symmetric", control=True))
    value = loss(theta, task)
    assert solve.betas == [0.0]
    phi, _ = quadratic_solution(theta, task)
    assert float(value) == pytest.approx(float(quadratic.outer(phi, theta, task)), rel=100 * EPS)


# The task's gradient


@pytest.mark.parametrize("estimator", [mc.FirstOrder(), mc.Reptile(), mc.Evolution(0.1)])
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["plain", "jit"])
def test_the_tasks_gradient_is_refused_where_there_is_none(estimator, wrap):
    theta, task = random_quadratic(0)
    loss = mc.meta_loss(quadratic, SOLVE, estimator)
    key = jax.random.key(0)
    name = type(estimator).__name__
    with pytest.raises(TypeError, match=rf"^z: {name}\(.* gives no gradient by the task"):
        wrap(jax.grad(loss, argnums=1))(theta, task, key)
    with pytest.raises(TypeError, match=r"^z: "):
        jax.grad(lambda s: loss(theta, task._replace(centre=s * task.centre), key))(1.0)


def test_a_constant_part_of_the_task_may_be_made_by_an_outer_function():
    theta, task = random_quadratic(0)
    loss = mc.meta_loss(quadratic, SOLVE, CONTRAST)

    def frozen(theta):
        return loss(theta, task._replace(centre=jax.lax.stop_gradient(theta.omega)))

    fixed = task._replace(centre=theta.omega)
    assert relative_error(jax.grad(frozen)(theta), jax.grad(loss)(theta, fixed)) < ROUND_OFF


def test_differentiating_what_the_problem_closes_over_is_refused():
    theta, task = random_quadratic(0)

    def closing(scale):
        outer = lambda phi, theta, task: scale * quadratic.outer(phi, theta, task)
        problem = mc.Problem(quadratic.init, quadratic.inner, outer)
        return mc.meta_loss(problem, SOLVE, CONTRAST)(theta, task)

    with pytest.raises(TypeError, match=r"^solver: it, or the problem, closes over"):
        jax.grad(closing)(1.0)


# Keys


def noisy_problem():
    """Each step sees the centre of the inner loss at a random place."""
    return mc.Problem(
        quadratic.init,
        quadratic.inner,
        quadratic.outer,
        sample=lambda task, key: task._replace(centre=task.centre + jax.random.normal(key, (5,))),
    )


@pytest.mark.parametrize("estimator", [mc.Contrastive(0.3, control=True), *ESTIMATORS[1:]])
def test_the_key_decides_value_and_gradient(estimator):
    theta, task = random_quadratic(0)
    loss = jax.jit(jax.value_and_grad(mc.meta_loss(noisy_problem(), SOLVE, estimator)))
    one, again, other = (loss(theta, task, jax.random.key(seed)) for seed in (0, 0, 1))
    assert relative_error(one, again) == 0
    assert one[0] != other[0]
    alone = mc.meta_loss(noisy_problem(), SOLVE, estimator)(theta, task, jax.random.key(0))
    assert float(alone) == pytest.approx(float(one[0]), rel=ROUND_OFF)
    assert relative_error(one[1], other[1]) > 0.01


def test_keys_vary_under_vmap():
    theta, task = random_quadratic(0)
    loss = mc.meta_loss(noisy_problem(), SOLVE, CONTRAST)
    keys = jax.random.split(jax.random.key(0), 3)
    together = jax.jit(jax.vmap(jax.grad(loss), (None, None, 0)))(theta, task, keys)
    last = jax.tree.map(lambda leaf: leaf[2], together)
    assert relative_error(last, jax.jit(jax.grad(loss))(theta, task, keys[2])) < ROUND_OFF


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_sampling_learner_without_a_key_is_refused(estimator):
    theta, task = random_quadratic(0)
    loss = mc.meta_loss(noisy_problem(), SOLVE, estimator)
    for call in (loss, jax.grad(loss)):
        with pytest.raises(ValueError, match=r"^key"):
            call(theta, task)


def test_a_key_is_harmless_where_nothing_is_sampled():
    theta, task = random_quadratic(0)
    grad = jax.grad(mc.meta_loss(quadratic, SOLVE, CONTRAST))
    assert relative_error(grad(theta, task, jax.random.key(0)), grad(theta, task)) == 0


# Derivatives of other kinds


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_forward_mode_is_the_gradient_along_a_tangent(estimator):
    theta, task = random_logistic(0)
    loss = mc.meta_loss(logistic, SOLVE, estimator)
    towards = jax.tree.map(lambda leaf: jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape), theta)
    value, tangent = jax.jvp(lambda theta: loss(theta, task), (theta,), (towards,))
    expected, grad = jax.value_and_grad(loss)(theta, task)
    assert float(value) == pytest.approx(float(expected), rel=ROUND_OFF)
    along = optax.tree.vdot(grad, towards)
    assert float(tangent) == pytest.approx(float(along), rel=ROUND_OFF)


def test_the_hessian_is_that_of_the_closed_form():
    # phi_0 = (task + theta) / 2, so that the meta-loss is (task + theta)^2 |b|^2 / 4 + theta^3.
    problem = mc.Problem(
        init=lambda theta, task: theta,
        inner=lambda phi, theta, task: jnp.sum((phi - task) ** 2 + (phi - theta) ** 2),
        outer=lambda phi, theta, task: jnp.sum(phi**2) + jnp.sum(theta**3),
    )
    theta, task = jnp.array([1.0, -0.5]), jnp.array([3.0, 2.0])
    for solver in (mc.closed_form(), mc.until_converged(optax.sgd(0.2), 1e-13)):
        rule = mc.Contrastive(1e-4, "symmetric")
        hessian = jax.jit(jax.hessian(mc.meta_loss(problem, solver, rule)))(theta, task)
        np.testing.assert_allclose(hessian, jnp.diag(0.5 + 6 * theta), atol=1e-6)


# Once a shape


def counted():
    """A problem that counts how often its inner loss is traced."""
    traces = []

    def inner(phi, theta, task):
        traces.append(1)
        return quadratic.inner(phi, theta, task)

    return mc.Problem(quadratic.init, inner, quadratic.outer), traces


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_an_eager_call_is_traced_once_a_shape(estimator):
    theta, task = random_quadratic(0)
    problem, traces = counted()
    gradient = jax.grad(mc.meta_loss(problem, SOLVE, estimator))
    gradient(theta, task)
    first = len(traces)
    other = jax.tree.map(lambda leaf: leaf + 0.1, theta)
    gradient(other, task)
    assert len(traces) == first


def test_arguments_that_are_closed_over_are_taken_as_they_are():
    theta, task = random_quadratic(0)
    loss = mc.meta_loss(noisy_problem(), SOLVE, CONTRAST)
    key = jax.random.key(3)
    expected = jax.grad(loss)(theta, task, key)
    for wrapped in (
        jax.jit(lambda key: jax.grad(loss)(theta, task, key)),
        lambda key: jax.lax.map(lambda key: jax.grad(loss)(theta, task, key), key[None]),
    ):
        found = jax.tree.map(lambda leaf, e: leaf.reshape(e.shape), wrapped(key), expected)
        assert relative_error(found, expected) < ROUND_OFF
    jax.make_jaxpr(lambda key: loss(theta, task, key))(key)


# Other learners


def test_a_solver_that_needs_numbers_is_told_where_to_go():
    def solve(loss, phi):
        return np.asarray(phi) * 2

    theta, task = random_quadratic(0)
    with pytest.raises(TypeError, match=r"^solver: .*pure_callback.*metacontrast\.external"):
        meta_grad(quadratic, solve, CONTRAST, theta, task)


@pytest.mark.parametrize(
    "solve",
    [lambda loss, phi: phi[:2], lambda loss, phi: {"phi": phi}, lambda loss, phi: phi > 0],
    ids=["shape", "structure", "type"],
)
def test_a_solver_that_returns_something_else_is_refused(solve):
    theta, task = random_quadratic(0)
    with pytest.raises(ValueError, match=r"^solver: Function\(.* returned phi as"):
        mc.solve_inner(quadratic, solve, theta, task)


@pytest.mark.parametrize("name", ["init", "inner", "outer"])
def test_functions_that_take_other_arguments_are_named(name):
    problem = mc.Problem(quadratic.init, quadratic.inner, quadratic.outer)
    said = "must be a function of 2" if name == "init" else r"is called with \(phi, theta, z\)"
    with pytest.raises(TypeError, match=rf"^{name}: {said}.*<lambda>\(phi\)"):
        replace(problem, **{name: lambda phi: phi})


def test_an_estimator_of_your_own_is_one_method():
    class Constant(mc.Estimator):
        def value_and_grad(self, loss, solver, starts=None):
            return mc.MetaGradient(jnp.array(2.0), jax.tree.map(jnp.ones_like, loss.theta))

    theta, task = random_quadratic(0)
    value, grad = jax.value_and_grad(mc.meta_loss(quadratic, SOLVE, Constant()))(theta, task)
    phi = mc.solve_inner(quadratic, SOLVE, theta, task).phi
    assert value in (2.0, quadratic.outer(phi, theta, task))
    assert all(jnp.all(leaf == 1) for leaf in jax.tree.leaves(grad))


# Functions as solvers of problems that sample


def test_gradients_are_of_the_types_of_what_they_are_by():
    class Wide(mc.Estimator):
        by_z = True

        def value_and_grad(self, loss, solver, starts=None):
            wide = lambda leaf: jnp.ones(leaf.shape, jnp.float64)
            by_z = {"x": wide(loss.z["x"]), "n": np.zeros((), jax.dtypes.float0)}
            return mc.MetaGradient(jnp.array(2.0), jax.tree.map(wide, loss.theta), by_z)

    problem = mc.Problem(lambda theta, z: theta, *2 * [lambda phi, theta, z: z["x"]])
    theta = {"a": jnp.ones(2, jnp.float32), "b": jnp.ones((), jnp.bfloat16)}
    z = {"x": jnp.ones((), jnp.float32), "n": jnp.array(3)}
    meta = mc.meta_gradient(problem, SOLVE, Wide())(theta, z)
    types = {"a": jnp.float32, "b": jnp.bfloat16, "x": jnp.float32, "n": jax.dtypes.float0}
    assert {k: g.dtype for k, g in (meta.by_theta | meta.by_z).items()} == types


def test_a_function_says_how_it_takes_its_views():
    theta, task = random_quadratic(0)
    key = jax.random.key(2)

    def descent(loss, phi):
        for t in range(5):
            phi = phi - 0.2 * jax.grad(loss.view(t))(phi)
        return phi

    run = lambda solver: mc.solve_inner(noisy_problem(), solver, theta, task, key).phi
    with pytest.raises(ValueError, match=r"^solver: .*samples=True"):
        run(descent)
    assert relative_error(run(mc.as_solver(descent, samples=True)), run(SOLVE)) < ROUND_OFF
    whole = lambda loss, phi: phi - 0.2 * jax.grad(loss)(phi)
    expected = theta.omega - 0.2 * jax.grad(mc.Loss(quadratic, theta, task))(theta.omega)
    assert relative_error(run(mc.as_solver(whole, samples=False)), expected) < ROUND_OFF


BACKTRACKING = optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(15))


@pytest.mark.parametrize("optimizer", [optax.lbfgs(), optax.polyak_sgd(), BACKTRACKING])
def test_optimisers_that_ask_for_more_than_the_gradient(optimizer):
    loss = lambda phi: jnp.sum((phi - 1.0) ** 2)
    phi = jax.jit(mc.descend(optimizer, 30), static_argnums=0)(loss, jnp.zeros(3)).phi
    np.testing.assert_allclose(phi, 1.0, atol=1e-3)
