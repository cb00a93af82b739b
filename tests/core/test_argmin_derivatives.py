"""Derivatives of a minimiser, in both modes and to the second order, at the default beta."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import normal

import metacontrast as mc

pytestmark = pytest.mark.thorough


def separable_newton(loss, phi):
    """Newton's method on what bends each weight by itself."""
    slope = jax.grad(loss, holomorphic=jnp.iscomplexobj(phi))

    def step(_, phi):
        g, h = jax.jvp(slope, (phi,), (jnp.ones_like(phi),))
        return phi - g / h

    return jax.lax.fori_loop(0, 12, step, phi)


SOLVER = mc.as_solver(separable_newton, holomorphic=True)
THETA, TASK = {"a": jnp.array([1.5, 4.0]), "b": jnp.array(0.5)}, jnp.array([2.0, 0.7])


def quartic(phi, theta, task):
    return jnp.sum(0.25 * task * phi**4 - (theta["a"] + theta["b"]) * phi)


def minimum(theta, task):
    return jnp.cbrt((theta["a"] + theta["b"]) / task)


FIND = mc.argmin(quartic, SOLVER, init=lambda theta, task: jnp.ones(2))


def same(a, b, rtol=1e-12):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol), a, b)


def both(mode, *modes):
    """The derivative, or one of a derivative, by theta and by the task; compiled."""
    inner = (lambda f: both(*modes)(f)) if modes else (lambda f: f)
    return lambda f: mode(inner(f), (0, 1))


def following(find):
    return lambda theta, task: jnp.sin(find(theta, task)) @ jnp.array([1.0, 2.0]) + theta["b"] ** 2


def in_both_modes(find):
    modes = [mode(find, (0, 1)) for mode in (jax.jacrev, jax.jacfwd)]
    return jax.jit(lambda theta, task: [mode(theta, task) for mode in modes])(THETA, TASK)


TRUTH = in_both_modes(minimum)


@pytest.mark.parametrize(
    ("scheme", "order", "within"),
    [
        ("symmetric", None, 1e-9),
        ("symmetric", 4, 1e-11),
        ("forward", None, 1e-7),
        ("holomorphic", None, 1e-11),
    ],
)
def test_both_modes(scheme, order, within):
    start = lambda theta, task: jnp.full(2, 1.3)
    find = mc.argmin(quartic, SOLVER, scheme=scheme, order=order, init=start)
    same(in_both_modes(find), TRUTH, within)


@pytest.mark.parametrize("first", [jax.jacrev, jax.jacfwd])
@pytest.mark.parametrize("second", [jax.jacrev, jax.jacfwd])
def test_second_derivatives(first, second):
    hessian = lambda find: jax.jit(both(second, first)(following(find)))(THETA, TASK)
    same(hessian(FIND), hessian(minimum), 1e-8)


def test_a_gradient_by_theta_has_one_by_the_task():
    by_theta = lambda find: lambda task: jax.grad(following(find))(THETA, task)["a"]
    mixed = lambda find: jax.jit(jax.jacrev(by_theta(find)))(TASK)
    same(mixed(FIND), mixed(minimum), 1e-8)


def test_the_pullback_is_linear():
    # Differentiated by the cotangent alone: what it is of stands still.
    of = lambda find: lambda v: jax.vjp(find, THETA, TASK)[1](v)
    v, w = jnp.array([1.0, -2.0]), jnp.array([0.5, 3.0])
    along = lambda find: jax.jit(lambda v, w: jax.jvp(of(find), (v,), (w,)))(v, w)
    same(along(FIND), (of(minimum)(v), of(minimum)(w)), 1e-8)
    back = lambda find: jax.jit(jax.grad(lambda v: jnp.sum(of(find)(v)[1] * w)))(v)
    same(back(FIND), back(minimum), 1e-8)


@jax.custom_vjp
def rectified(x):
    return jnp.maximum(x, 0.0)


rectified.defvjp(lambda x: (rectified(x), x), lambda x, v: (v * (x > 0),))


def test_a_loss_that_is_differentiable_once():
    inner = lambda phi, theta, task: jnp.sum(quartic(rectified(phi), theta, task))
    descent = mc.descend(optax.sgd(0.08), 200)
    find = mc.argmin(inner, descent, init=lambda theta, task: jnp.ones(2))
    same(in_both_modes(find), TRUTH, 1e-6)
    for mode in (jax.jacrev, jax.jacfwd):
        with pytest.raises(TypeError, match="inner: second derivatives of a minimiser need those"):
            jax.eval_shape(both(mode, jax.jacrev)(following(find)), THETA, TASK)


def test_a_following_function_of_a_part():
    inner = lambda phi, theta, task: (phi["a"] - theta) ** 2 + (phi["b"] - task) ** 2
    init = lambda theta, task: {"a": jnp.zeros(()), "b": jnp.zeros(())}
    find = mc.argmin(inner, mc.descend(optax.sgd(0.1), 50), init=init)
    # Descent ends at (1 - 0.8^50) theta, and its nudged runs go as far of their way.
    part = lambda name: jax.grad(lambda *x: find(*x)[name], (0, 1))(jnp.array(1.5), jnp.array(2.0))
    same((part("a"), part("b")), ((1.0, 0.0), (0.0, 1.0)), 1e-4)


def whole(find):
    return lambda theta, task: jax.grad(following(find), (0, 1))(theta, task)


@pytest.mark.parametrize("how", ["jit", "scan", "fori_loop", "make_jaxpr"])
def test_arguments_that_are_closed_over(how):
    unseen = jnp.array(0.0)
    if how == "jit":
        grads = jax.jit(lambda _: whole(FIND)(THETA, TASK))(unseen)
    elif how == "scan":
        _, grads = jax.lax.scan(lambda c, _: (c, whole(FIND)(THETA, TASK)), unseen, length=1)
        grads = jax.tree.map(lambda leaf: leaf[0], grads)
    elif how == "fori_loop":
        like = (jax.tree.map(jnp.zeros_like, THETA), jnp.zeros(2))
        grads = jax.lax.fori_loop(0, 1, lambda i, _: whole(FIND)(THETA, TASK), like)
    else:
        program = jax.make_jaxpr(lambda _: whole(FIND)(THETA, TASK))(unseen)
        a, b, task = jax.core.eval_jaxpr(program.jaxpr, program.consts, unseen)
        grads = {"a": a, "b": b}, task
    same(grads, whole(minimum)(THETA, TASK), 1e-8)


def test_leaves_of_two_precisions():
    # The nudge is long enough for the narrower one.
    inner = lambda phi, theta, task: sum(
        jnp.sum(jnp.cosh(p - theta.astype(p.dtype))) for p in jax.tree.leaves(phi)
    )
    start = {"a": jnp.ones(2), "b": jnp.ones(2, jnp.float32)}
    find = mc.argmin(inner, mc.descend(optax.sgd(0.5), 60), init=lambda theta, task: start)
    modes = [mode(lambda theta: find(theta, None)["b"]) for mode in (jax.jacrev, jax.jacfwd)]
    for ours in jax.jit(lambda theta: [mode(theta) for mode in modes])(THETA["a"]):
        same(ours, jnp.eye(2), 2e-3)


def test_what_the_inner_loss_closes_over():
    # Traced by the jit, and known to the derivative only as a constant.
    @jax.jit
    def gradient(task):
        inner = lambda phi, theta, _: quartic(phi, theta, task)
        find = mc.argmin(inner, SOLVER, init=lambda theta, _: jnp.ones(2))
        return jax.grad(lambda theta: following(find)(theta, None))(THETA)

    same(gradient(TASK), whole(minimum)(THETA, TASK)[0], 1e-8)


def test_a_traced_beta():
    @jax.jit
    def gradient(beta):
        find = mc.argmin(quartic, SOLVER, beta, init=lambda theta, task: jnp.ones(2))
        return whole(find)(THETA, TASK)

    near, far = gradient(1e-3), gradient(0.5)
    same(near, whole(minimum)(THETA, TASK), 1e-6)
    with pytest.raises(AssertionError):
        same(far, near, 1e-4)


def test_the_units_of_phi_theta_and_the_loss_may_be_any():
    def slopes(phi_unit, theta_unit, loss_unit):
        inner = lambda phi, theta, task: (
            loss_unit * quartic(phi / phi_unit, {"a": theta / theta_unit, "b": 0.5}, task)
        )
        find = mc.argmin(inner, SOLVER, init=lambda theta, task: jnp.full(2, phi_unit))
        at = theta_unit * THETA["a"]
        modes = (jax.jacrev, jax.jacfwd)
        return [mode(find)(at, TASK) * theta_unit / phi_unit for mode in modes]

    units = 10.0 ** jnp.array([[-8, 0, 0], [8, -8, 8], [0, 8, -8], [-8, 8, 8]])
    for ours, true in zip(jax.jit(jax.vmap(slopes))(*units.T), TRUTH, strict=True):
        same(ours, jnp.broadcast_to(true[0]["a"], ours.shape), 1e-8)


def test_cotangents_of_any_size_in_a_narrow_type():
    theta, task = jax.tree.map(jnp.float32, (THETA, TASK))
    find = mc.argmin(quartic, SOLVER, init=lambda theta, task: jnp.ones(2, jnp.float32))
    pull_back = lambda v: jax.vjp(find, theta, task)[1](v)
    # The square of the first is no float32, nor of the last.
    sizes = jnp.float32(10.0) ** jnp.array([-28, 0, 28])
    ones = jnp.ones(2, jnp.float32)
    grads = jax.jit(
        jax.vmap(lambda size: jax.tree.map(lambda g: g / size, pull_back(size * ones)))
    )(sizes)
    true = jax.vjp(minimum, theta, task)[1](ones)
    for i in range(3):
        same(jax.tree.map(lambda leaf, i=i: leaf[i], grads), true, 1e-3)


def test_logistic_regression_in_single_precision():
    x, y = normal(0, 60, 8), (normal(1, 60) > 0) * 1.0

    def inner(w, log_lam, task):
        logits = task[0] @ w
        rows = optax.sigmoid_binary_cross_entropy(logits, task[1])
        return jnp.mean(rows) + jnp.sum(jnp.exp(log_lam) * w**2)

    log_lam = jnp.linspace(-6.0, -2.0, 8)
    init = lambda theta, task: jnp.zeros_like(theta)
    w = mc.newton_cg(1e-12)(lambda w: inner(w, log_lam, (x, y)), jnp.zeros(8)).phi
    mixed = jax.jacfwd(jax.grad(inner), 1)(w, log_lam, (x, y))
    true = -jnp.linalg.solve(jax.hessian(inner)(w, log_lam, (x, y)), mixed)
    narrow = mc.argmin(inner, mc.until_converged(optax.sgd(1.0, 0.9), 1e-5), init=init)
    single = jax.tree.map(jnp.float32, (log_lam, (x, y)))
    error = jnp.linalg.norm(jax.jit(jax.jacrev(narrow))(*single) - true)
    assert error < 0.01 * jnp.linalg.norm(true)


def test_the_gradient_of_the_nearest_minimiser_where_they_are_many():
    # 5 equations in 20 unknowns: phi + A^+ (y - A phi) is the nearest solution.
    matrix, start, v = normal(0, 5, 20), normal(1, 20), normal(2, 20)
    theta = {"A": matrix, "y": normal(3, 5)}
    inner = lambda phi, theta, task: 0.5 * jnp.sum((theta["A"] @ phi - theta["y"]) ** 2)
    descent = mc.descend(optax.sgd(1 / float(jnp.linalg.norm(matrix, 2)) ** 2), 500)
    find = mc.argmin(inner, descent, init=lambda theta, task: start)
    phi, pull_back = jax.vjp(lambda theta: find(theta, None), theta)
    nearest = lambda theta: phi + jnp.linalg.pinv(theta["A"]) @ (theta["y"] - theta["A"] @ phi)
    same(pull_back(v)[0], jax.vjp(nearest, theta)[1](v)[0], 1e-6)
    # It has nothing to say of a v that is flat altogether.
    flat = v - jnp.linalg.pinv(matrix) @ (matrix @ v)
    assert all(jnp.all(jnp.isnan(leaf)) for leaf in jax.tree.leaves(pull_back(flat)))


def test_no_number_where_phi_is_no_minimum():
    # At the top of a double well, where its slope is 0.
    well = lambda phi, theta, task: (phi**2 - 1) ** 2 - theta * phi
    find = mc.argmin(well, mc.descend(optax.sgd(0.1), 50), init=lambda theta, task: jnp.zeros(()))
    assert find(0.0, None) == 0.0
    slopes = [mode(lambda theta: find(theta, None)) for mode in (jax.jacrev, jax.jacfwd)]
    assert jnp.all(jnp.isnan(jnp.stack(jax.jit(lambda t: [f(t) for f in slopes])(0.0))))
