import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads
from matrix_problems import normal

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


def followed(theta, find):
    """Any function of the minimiser, and of theta besides."""
    w = find(theta)
    return jnp.sum(jnp.sin(w)) + w[0] * theta["x"][1] + jnp.sum(w**2)


def same(a, b, rtol=1e-12):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol), a, b)


TRUTH = jax.grad(followed)(THETA, lambda theta: minimum(theta, TASK))


@pytest.mark.parametrize("beta", [1.0, 0.1, 0.01])
def test_exact_for_quadratic_losses_whatever_beta(beta):
    find = mc.argmin(quadratic, mc.closed_form(), beta, init=start)
    found = jax.grad(followed)(THETA, lambda theta: find(theta, TASK)["w"])
    same(found, TRUTH, 1e-12)


def test_value():
    find = mc.argmin(quadratic, mc.closed_form(), 0.1, init=start)
    same(find(THETA, TASK)["w"], minimum(THETA, TASK))


def test_jacobian_jit_and_vmap():
    find = mc.argmin(quadratic, mc.closed_form(), 0.1, init=start)
    jacobian = jax.jit(jax.jacrev(lambda theta: find(theta, TASK)["w"]))(THETA)
    same(jacobian, jax.jacrev(minimum)(THETA, TASK))
    tasks = normal(4, 3, 5)
    grad = lambda find: lambda task: jax.grad(followed)(THETA, lambda theta: find(theta, task))
    same(
        jax.jit(jax.vmap(grad(lambda theta, task: find(theta, task)["w"])))(tasks),
        jax.vmap(grad(minimum))(tasks),
    )


def test_the_length_of_the_cotangent_does_not_matter():
    find = mc.argmin(quadratic, mc.until_converged(optax.sgd(0.1), 1e-11), 0.1, init=start)
    _, pull_back = jax.vjp(lambda theta: find(theta, TASK)["w"], THETA)
    tiny = pull_back(1e-9 * jnp.ones(5))[0]
    same(jax.tree.map(lambda g: 1e9 * g, tiny), pull_back(jnp.ones(5))[0], 1e-6)
    assert all(jnp.all(leaf == 0) for leaf in jax.tree.leaves(pull_back(jnp.zeros(5))))


def bent(phi, theta, task):
    return jnp.sum(jnp.cosh(phi - theta) + 0.3 * jnp.sin(phi) * task)


@pytest.mark.parametrize(
    ("scheme", "order", "falls"),
    [("forward", None, 1), ("symmetric", None, 2), ("symmetric", 4, 4), ("holomorphic", 4, 4)],
)
def test_order_for_other_losses(scheme, order, falls):
    theta, task = jnp.array([0.3, -0.5]), jnp.array([1.0, 2.0])
    solve = mc.until_converged(optax.sgd(0.4), 1e-13)

    def grad(beta, *scheme):
        find = mc.argmin(
            bent, solve, beta, init=lambda theta, task: theta, scheme=scheme[0], order=scheme[1]
        )
        return jax.grad(lambda theta: jnp.sum(find(theta, task) ** 2))(theta)

    truth = grad(0.01, "symmetric", 4)
    coarse, fine = (jnp.linalg.norm(grad(b, scheme, order) - truth) for b in (0.4, 0.2))
    assert 0.6 * 2**falls < coarse / fine < 1.7 * 2**falls


def test_against_finite_differences():
    solve = mc.newton_cg(1e-13)
    find = mc.argmin(bent, solve, 1e-3, init=lambda theta, task: theta)
    check_grads(lambda theta: find(theta, jnp.ones(2)), (jnp.ones(2),), 1, ["rev"], rtol=1e-5)


def test_the_task_gets_no_gradient_and_says_so():
    find = mc.argmin(quadratic, mc.closed_form(), 0.1, init=start)
    with pytest.raises(TypeError, match="task: the gradient of an argmin"):
        jax.grad(lambda task: jnp.sum(find(THETA, task)["w"]))(TASK)


def test_bad_beta():
    with pytest.raises(ValueError, match="beta: the nudge must be finite"):
        mc.argmin(quadratic, mc.closed_form(), 0.0, init=start)
