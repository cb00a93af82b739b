"""The gradient by the task: against closed forms, finite differences and unrolling."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import quadratic, random_quadratic, random_ridge, relative_error, ridge

import metacontrast as mc

# The largest curvature is below 9, and the smallest above 0.5: 0.95^1000 is 1e-22.
LONG = mc.descend(optax.sgd(0.1), 1000)
RULES = {  # and the relative error that theory leaves: beta^2, or round-off over beta
    "symmetric": (mc.Contrastive(1e-3, "symmetric"), 1e-5),
    "forward": (mc.Contrastive(1e-6), 1e-4),
    "linear": (mc.Contrastive(0.1, "symmetric", nudge="linear"), 1e-9),
    "damped": (mc.Contrastive(0.1, "symmetric", nudge="linear", damping=0.0), 1e-9),
    "cg": (mc.Implicit("cg", 30), 1e-9),
    "exact": (mc.Implicit("exact"), 1e-9),
    "unrolled": (mc.Unrolled(), 1e-9),
}


def by_centre(theta, task):
    """Of the quadratic problem, by hand: phi_0 = M^-1 (C c + ...), dphi_0/dc = M^-1 C."""
    matrix = task.curvature + 2 * jnp.diag(jnp.exp(theta.log_lam))
    pulls = task.curvature @ task.centre + 2 * jnp.exp(theta.log_lam) * theta.omega
    slope = task.outer_curvature @ (jnp.linalg.solve(matrix, pulls) - task.outer_centre)
    return task.curvature @ jnp.linalg.solve(matrix, slope), -slope


@pytest.mark.parametrize("name", RULES)
def test_it_is_that_of_the_closed_form(name):
    rule, tolerance = RULES[name]
    theta, task = random_quadratic(3)
    grad = jax.grad(mc.meta_loss(quadratic, LONG, rule), argnums=1)(theta, task)
    inner, outer = by_centre(theta, task)
    assert relative_error(grad.centre, inner) < tolerance
    assert relative_error(grad.outer_centre, outer) < tolerance  # the direct derivative


@pytest.mark.parametrize("name", ["symmetric", "linear", "cg"])
def test_it_is_that_of_unrolling(name):
    rule, tolerance = RULES[name]
    theta, task = random_ridge(2)
    grads = [
        mc.meta_gradient(ridge, LONG, each)(theta, task).by_z for each in (rule, mc.Unrolled())
    ]
    assert relative_error(*grads) < 10 * tolerance


def slow_body():
    theta, task = random_ridge(1)
    body = jax.random.normal(jax.random.key(0), (9, 9)) / 3

    def features(body, task):
        x = lambda half: half._replace(x=jnp.tanh(half.x @ body))
        return task._replace(train=x(task.train), test=x(task.test))

    return features, {"body": body, "head": theta}, task


@pytest.mark.parametrize("name", ["symmetric", "linear", "cg", "unrolled"])
def test_features_of_a_slow_body_are_composition(name):
    features, theta, task = slow_body()
    plain = mc.meta_loss(ridge, LONG, RULES[name][0])
    loss = lambda theta: plain(theta["head"], features(theta["body"], task))
    grad = jax.grad(loss)(theta)
    towards = jax.random.normal(jax.random.key(1), (9, 9))
    h = 1e-5
    moved = lambda s: loss(theta | {"body": theta["body"] + s * towards})
    # A central difference: h^2 of 1e-10, and round-off over h of about 1e-10.
    slope = float(moved(h) - moved(-h)) / (2 * h)
    assert float(jnp.sum(grad["body"] * towards)) == pytest.approx(slope, rel=1e-4)


def test_leaves_that_are_not_floating_have_none():
    problem = mc.Problem(
        init=lambda theta, z: theta,
        inner=lambda phi, theta, z: (
            jnp.sum((phi - z["x"][z["i"]]) ** 2 * z["on"]) + jnp.sum((phi - theta) ** 2)
        ),
        outer=lambda phi, theta, z: jnp.sum(phi**2),
    )
    z = {"x": jnp.array([3.0, 5.0, 7.0]), "i": jnp.array([2, 0]), "on": jnp.array([True, False])}
    z |= {"key": jax.random.key(0)}
    theta = jnp.array([1.0, 2.0])
    loss = mc.meta_loss(problem, mc.closed_form(), mc.Contrastive(1e-3, "symmetric"))
    grad = jax.grad(loss, argnums=1, allow_int=True)(theta, z)
    # phi_0 = ((7 + 1) / 2, 2): the first half of x_2.
    np.testing.assert_allclose(grad["x"], [0.0, 0.0, 4.0], atol=1e-5)
    assert all(grad[name].dtype == jax.dtypes.float0 for name in ("i", "on", "key"))
    # Through the floating leaf alone, it is asked for without a word on the others.
    scaled = jax.grad(lambda s: loss(theta, z | {"x": s * z["x"]}))(1.0)
    assert float(scaled) == pytest.approx(4.0 * 7.0, rel=1e-5)
