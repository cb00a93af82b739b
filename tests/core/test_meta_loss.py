"""meta_loss is an ordinary function: whatever JAX does to functions, it does to this one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import (
    EPS,
    Recorder,
    batch,
    closed_form,
    forbidden,
    logistic,
    meta_grad,
    quadratic,
    quadratic_solution,
    random_logistic,
    random_quadratic,
    relative_error,
)

import metacontrast as mc

SOLVE = mc.descend(optax.sgd(0.2), 5)
CONTRAST = mc.Contrastive(0.3)
ESTIMATORS = [CONTRAST, mc.Unrolled(), mc.FirstOrder()]
# Ten steps on numbers of order one, reordered by the compiler, divided by beta.
ROUND_OFF = 1e3 * EPS / 0.3


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_value_and_gradient_are_the_estimators_also_under_jit(estimator):
    theta, task = random_logistic(0)
    loss = mc.meta_loss(logistic, SOLVE, estimator)
    value, grad = jax.jit(jax.value_and_grad(loss))(theta, task)
    (expected, _), rule = estimator.value_and_grad(logistic, SOLVE, theta, task)
    assert float(value) == pytest.approx(float(expected), rel=ROUND_OFF)
    assert relative_error(grad, rule) < ROUND_OFF
    assert float(loss(theta, task)) == pytest.approx(float(expected), rel=ROUND_OFF)


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
    softplus = lambda raw: theta | {"log_lam": jnp.log(jax.nn.softplus(raw))}
    raw = jnp.array([0.3, -0.5, 1.0])
    found = jax.grad(lambda raw: loss(softplus(raw), task))(raw)
    slope = jax.nn.sigmoid(raw) / jax.nn.softplus(raw)
    np.testing.assert_allclose(
        found, slope * jax.grad(loss)(softplus(raw), task)["log_lam"], rtol=1e-12
    )


def test_regularisers_and_factors_compose():
    theta, task = random_logistic(0)
    loss = mc.meta_loss(logistic, SOLVE, CONTRAST)
    penalty = lambda theta: jnp.sum(theta["omega"] ** 2)
    found = jax.grad(lambda theta: 3 * loss(theta, task) + penalty(theta))(theta)
    parts = jax.grad(loss)(theta, task), jax.grad(penalty)(theta)
    expected = jax.tree.map(lambda a, b: 3 * a + b, *parts)
    assert relative_error(found, expected) < ROUND_OFF


def test_a_value_without_gradient_runs_the_free_phase_alone():
    theta, task = random_quadratic(0)
    solve = Recorder(closed_form(quadratic_solution))
    loss = mc.meta_loss(quadratic, solve, mc.Contrastive(0.1, "symmetric", control=True))
    value = loss(theta, task)
    assert solve.betas == [0.0]
    phi, _ = quadratic_solution(theta, task)
    assert float(value) == pytest.approx(float(quadratic.outer(phi, theta, task)), rel=100 * EPS)


# Asking for the task's gradient


TASK_GRADIENT = r"task: the gradient of a meta_loss with respect to the task"


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_tasks_gradient_is_refused(estimator):
    theta, task = random_quadratic(0)
    with pytest.raises(TypeError, match=TASK_GRADIENT):
        jax.grad(mc.meta_loss(quadratic, SOLVE, estimator), argnums=1)(theta, task)


@pytest.mark.parametrize(
    "transform",
    [
        lambda loss, theta, task: jax.grad(loss, argnums=(0, 1))(theta, task),
        lambda loss, theta, task: jax.jit(jax.grad(loss, argnums=1))(theta, task),
        lambda loss, theta, task: jax.grad(jax.jit(loss), argnums=1)(theta, task),
        lambda loss, theta, task: jax.vmap(jax.grad(loss, argnums=1), (None, 0))(
            theta, jax.tree.map(lambda leaf: leaf[None], task)
        ),
    ],
    ids=["with theta's", "jit outside", "jit inside", "vmap"],
)
def test_the_tasks_gradient_is_refused_under_every_transformation(transform):
    theta, task = random_quadratic(0)
    with pytest.raises(TypeError, match=TASK_GRADIENT):
        transform(mc.meta_loss(quadratic, SOLVE, CONTRAST), theta, task)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["plain", "jit"])
def test_the_tasks_gradient_is_refused_when_an_outer_function_makes_the_task(wrap):
    theta, task = random_quadratic(0)
    loss = mc.meta_loss(quadratic, SOLVE, CONTRAST)

    def scaled(scale):
        task_of_scale = task._replace(centre=scale * task.centre)
        return wrap(lambda theta: loss(theta, task_of_scale))(theta)

    with pytest.raises(TypeError, match=TASK_GRADIENT):
        jax.grad(scaled)(1.0)


def test_a_constant_part_of_the_task_may_be_made_by_an_outer_function():
    theta, task = random_quadratic(0)
    loss = mc.meta_loss(quadratic, SOLVE, CONTRAST)

    def frozen(theta):
        return loss(theta, task._replace(centre=jax.lax.stop_gradient(theta["omega"])))

    fixed = task._replace(centre=theta["omega"])
    assert relative_error(jax.grad(frozen)(theta), jax.grad(loss)(theta, fixed)) < ROUND_OFF


def test_differentiating_what_the_problem_closes_over_is_refused():
    theta, task = random_quadratic(0)

    def closing(scale):
        outer = lambda phi, theta, task: scale * quadratic.outer(phi, theta, task)
        problem = mc.Problem(quadratic.init, quadratic.inner, outer)
        return mc.meta_loss(problem, SOLVE, CONTRAST)(theta, task)

    with pytest.raises(jax.errors.UnexpectedTracerError):
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


# Encoders


@pytest.mark.parametrize("estimator", [CONTRAST, mc.Contrastive(0.1, "symmetric"), mc.Unrolled()])
@pytest.mark.parametrize("transform", [lambda f: f, jax.grad], ids=["value", "gradient"])
def test_the_encoder_runs_once(estimator, transform):
    runs = []

    def encode(theta, task):
        jax.debug.callback(lambda: runs.append(1))
        return task._replace(centre=task.centre + theta["omega"])

    theta, task = random_quadratic(0)
    problem = mc.Problem(quadratic.init, quadratic.inner, quadratic.outer, encode=encode)
    jax.block_until_ready(jax.jit(transform(mc.meta_loss(problem, SOLVE, estimator)))(theta, task))
    jax.effects_barrier()
    assert len(runs) == 1


# Other learners


def test_a_solver_outside_jax_will_do():
    def solve(loss, phi0):
        phi, slope = np.asarray(phi0), jax.jit(jax.grad(loss))
        for _ in range(200):
            phi = phi - 0.2 * np.asarray(slope(phi))
        return phi

    theta, task = random_quadratic(0)
    found = meta_grad(quadratic, solve, CONTRAST, theta, task)
    exact = meta_grad(quadratic, closed_form(quadratic_solution), CONTRAST, theta, task)
    assert relative_error(found, exact) < ROUND_OFF


def test_any_object_with_value_and_grad_is_an_estimator():
    class Constant:
        def value_and_grad(self, problem, solve, theta, task, key=None):
            return (jnp.array(2.0), {}), jax.tree.map(jnp.ones_like, theta)

    theta, task = random_quadratic(0)
    value, grad = jax.value_and_grad(mc.meta_loss(quadratic, forbidden, Constant()))(theta, task)
    assert value == 2.0
    assert all(jnp.all(leaf == 1) for leaf in jax.tree.leaves(grad))
