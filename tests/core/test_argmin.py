import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import normal
from jax.test_util import check_grads

import metacontrast as mc

ROOT = normal(0, 5, 5)
MATRIX = ROOT @ ROOT.T / 5 + jnp.eye(5)
TASK, THETA = normal(1, 5), {"lam": normal(2, 5), "x": normal(3, 5)}


def quadratic(phi, theta, task):
    d = phi["w"] - task
    return 0.5 * d @ MATRIX @ d + jnp.sum(jnp.exp(theta["lam"]) * (phi["w"] - theta["x"]) ** 2)


def start(theta, task):
    return {"w": jnp.zeros(5)}


def minimum(theta, task):
    lam = 2 * jnp.exp(theta["lam"])
    return jnp.linalg.solve(MATRIX + jnp.diag(lam), MATRIX @ task + lam * theta["x"])


def gradients(find):
    """By theta and by the task, of any function of the minimiser, and of both besides."""

    def following(theta, task):
        w = find(theta, task)
        return jnp.sum(jnp.sin(w)) + w[0] * theta["x"][1] + w[2] * task[3] + jnp.sum(w**2)

    return jax.grad(following, (0, 1))


def weights(find):
    """The minimiser without its name."""
    return lambda theta, task: find(theta, task)["w"]


def same(a, b, rtol=1e-12):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol), a, b)


TRUTH = gradients(minimum)(THETA, TASK)
FIND = weights(mc.argmin(quadratic, mc.closed_form(), 0.1, init=start))


@pytest.mark.parametrize("beta", [1.0, 0.1, 0.01])
def test_exact_for_quadratic_losses_whatever_beta(beta):
    find = mc.argmin(quadratic, mc.closed_form(), beta, init=start)
    same(gradients(weights(find))(THETA, TASK), TRUTH, 1e-12)


def test_value():
    same(FIND(THETA, TASK), minimum(THETA, TASK))


def pulled_back(u, phi):
    """By theta and by the task, where `u` solves the linear system of the cotangent."""
    lam = 2 * jnp.exp(THETA["lam"])
    return {"lam": -lam * (phi - THETA["x"]) * u, "x": lam * u}, MATRIX @ u


HESSIAN, V = MATRIX + jnp.diag(2 * jnp.exp(THETA["lam"])), normal(6, 5)


def test_nudged_solves_are_the_nudged_solvers():
    # Three steps of descent from the minimum are three terms of the Neumann series.
    rate, few = 0.1, mc.descend(optax.sgd(0.1), 3)
    find = weights(mc.argmin(quadratic, mc.closed_form(), 0.1, init=start, nudged=few))
    phi, pull_back = jax.vjp(find, THETA, TASK)
    step = jnp.eye(5) - rate * HESSIAN
    u = rate * sum(jnp.linalg.matrix_power(step, k) @ V for k in range(3))
    same(pull_back(V), pulled_back(u, phi))


def test_damping_is_added_where_learning_stopped_early():
    # The slope that is left is taken out of the nudged solves, in which u is exact.
    early, damping = mc.descend(optax.sgd(0.1), 2), 0.7
    words = dict(init=start, nudged=mc.closed_form(), damping=damping)
    phi, pull_back = jax.vjp(weights(mc.argmin(quadratic, early, 0.1, **words)), THETA, TASK)
    u = jnp.linalg.solve(HESSIAN + damping * jnp.eye(5), V)
    same(pull_back(V), pulled_back(u, phi))


def test_jacobian_jit_and_vmap():
    jacobian = lambda find: jax.jit(jax.jacrev(find, (0, 1)))(THETA, TASK)
    same(jacobian(FIND), jacobian(minimum))
    tasks = normal(4, 3, 5)
    each = lambda find: jax.jit(jax.vmap(gradients(find), (None, 0)))(THETA, tasks)
    same(each(FIND), each(minimum))


def test_one_minimiser_can_be_the_task_of_another():
    twice = lambda find: lambda theta, task: find(theta, find(theta, task))
    same(gradients(twice(FIND))(THETA, TASK), gradients(twice(minimum))(THETA, TASK))


def test_the_length_of_the_cotangent_does_not_matter():
    find = weights(mc.argmin(quadratic, mc.until_converged(optax.sgd(0.1), 1e-11), 0.1, init=start))
    _, pull_back = jax.vjp(find, THETA, TASK)
    tiny = pull_back(1e-9 * jnp.ones(5))
    same(jax.tree.map(lambda g: 1e9 * g, tiny), pull_back(jnp.ones(5)), 1e-6)
    assert all(jnp.all(leaf == 0) for leaf in jax.tree.leaves(pull_back(jnp.zeros(5))))


def bent(phi, theta, task):
    return jnp.sum(jnp.cosh(phi - theta) + 0.3 * jnp.sin(phi) * task)


@pytest.mark.parametrize(
    ("scheme", "order", "falls"),
    [("forward", None, 1), ("symmetric", None, 2), ("symmetric", 4, 4), ("holomorphic", 4, 4)],
)
def test_order_for_other_losses(scheme, order, falls):
    theta, task = jnp.array([0.3, -0.5]), jnp.array([1.0, 2.0])
    solver = mc.until_converged(optax.sgd(0.4), 1e-13)

    def grads(beta, *scheme):
        find = mc.argmin(
            bent, solver, beta, init=lambda theta, task: theta, scheme=scheme[0], order=scheme[1]
        )
        return jnp.stack(jax.grad(lambda *z: jnp.sum(find(*z) ** 2), (0, 1))(theta, task))

    truth = grads(0.01, "symmetric", 4)
    # By theta and by the task.
    coarse, fine = (jnp.linalg.norm(grads(b, scheme, order) - truth, axis=1) for b in (0.4, 0.2))
    assert jnp.all((0.6 * 2**falls < coarse / fine) & (coarse / fine < 1.7 * 2**falls))


def test_against_finite_differences():
    find = mc.argmin(bent, mc.newton_cg(1e-13), 1e-3, init=lambda theta, task: theta)
    check_grads(find, (jnp.ones(2), jnp.array([1.0, 2.0])), 1, ["rev"], rtol=1e-5)


def test_a_part_of_the_minimiser():
    inner = lambda phi, theta, task: (phi["a"] - theta) ** 2 + (phi["b"] - phi["a"] * task) ** 2
    init = lambda theta, task: {"a": theta, "b": theta}
    solver = mc.until_converged(optax.sgd(0.1), 1e-13)
    find = mc.argmin(inner, solver, 1e-3, init=init)
    part = lambda name: jax.grad(lambda *x: find(*x)[name], (0, 1))(jnp.array(1.5), jnp.array(2.0))
    # At the minimum a = theta and b = theta task; the error is beta^2, times curvatures below 30.
    same((part("a"), part("b")), ((1.0, 0.0), (2.0, 1.5)), 1e-4)


def test_leaves_of_the_task_that_are_not_floating_have_no_gradient():
    inner = lambda phi, theta, z: jnp.sum((phi - z["x"][z["i"]]) ** 2 + (phi - theta) ** 2)
    find = mc.argmin(inner, mc.closed_form(), 0.1, init=lambda theta, z: theta)
    task = {"x": jnp.array([3.0, 5.0, 7.0]), "i": jnp.array([2, 0]), "key": jax.random.key(0)}
    total = lambda theta, task: jnp.sum(find(theta, task))
    grad = jax.grad(total, (0, 1), allow_int=True)(jnp.ones(2), task)
    # phi_0 = (x[i] + theta) / 2
    same((grad[0], grad[1]["x"]), (0.5 * jnp.ones(2), jnp.array([0.5, 0.0, 0.5])))
    assert all(grad[1][name].dtype == jax.dtypes.float0 for name in ("i", "key"))


def test_the_task_need_not_be_differentiable():
    doubled = lambda task: jax.lax.while_loop(lambda c: c < 10.0, lambda c: 2 * c, task)
    inner = lambda phi, theta, task: (phi - doubled(task)) ** 2 + theta * phi**2
    find = mc.argmin(inner, mc.closed_form(), 0.1, init=lambda theta, task: theta)
    # phi_0 = 12 / (1 + theta), of which the slope at 1 is -3.
    assert float(jax.grad(find)(jnp.array(1.0), jnp.array(3.0))) == pytest.approx(-3.0, rel=1e-12)


@pytest.mark.parametrize("scheme", ["symmetric", "forward"])
def test_learners_that_sample_draw_the_same_noise_in_all_solves(scheme):
    find = mc.argmin(
        lambda phi, theta, task: 0.5 * (phi - theta * task) ** 2,
        mc.descend(optax.sgd(0.5), 60),
        0.1,
        init=lambda theta, task: theta,
        scheme=scheme,
        sample=lambda task, key: task + jax.random.normal(key),
    )
    theta, task, keys = jnp.array(2.0), jnp.array(3.0), jax.random.split(jax.random.key(0))
    # Where a phase ends is noise, and how far a nudge moves it is not: phi_0 = theta task + noise.
    slopes = [jax.value_and_grad(find, (0, 1))(theta, task, key) for key in keys]
    assert slopes[0][0] != slopes[1][0]
    for _, grads in slopes:
        same(grads, (task, theta), 1e-11)
    with pytest.raises(ValueError, match="key: this problem samples"):
        find(theta, task)


def test_bad_beta():
    with pytest.raises(ValueError, match="beta: must be finite"):
        mc.argmin(quadratic, mc.closed_form(), 0.0, init=start)
