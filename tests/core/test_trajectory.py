"""The gradient of the steps that were taken, by first derivatives, against JAX's own."""

import re
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metacontrast as mc

N, STEPS = 12, 30
X = jax.random.normal(jax.random.key(1), (N, 3))
Y = jnp.sin(X.sum(1))
KEY = jax.random.key(7)


def network(activation, phi, x):
    return activation(x @ phi["a"] + phi["b"][None]) @ phi["c"]


def first(theta, z):
    draw = lambda seed, *shape: jax.random.normal(jax.random.key(seed), shape)
    return {"a": draw(2, 3, 4), "b": theta["start"], "c": draw(3, 4)}


def problem(activation=jnp.tanh, **more):
    predict = partial(network, activation)

    def inner(phi, theta, z):
        errors = (predict(phi, z["x"]) - z["y"]) ** 2
        decay = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(phi))
        return jnp.mean(z["weights"] * errors) + jnp.exp(theta["decay"]) * decay

    outer = lambda phi, theta, z: jnp.mean((predict(phi, 0.5 - X) - 1.0) ** 2)
    return mc.Problem(first, inner, outer, **more)


def views(z, key):
    return jax.tree.map(lambda a: a[jax.random.randint(key, (5,), 0, N)], z)


THETA = {
    "start": jnp.array([0.1, -0.2, 0.3, 0.0]),
    "decay": jnp.array(-4.0),
    "rate": jnp.array([-3.0, -4.0]),
    "momentum": jnp.array(0.7),
}
Z = {"x": X, "y": Y, "weights": jnp.linspace(0.5, 2.0, N), "labels": jnp.arange(N)}


def adam(theta):
    # Clipped, a schedule, moments and decay that are learned.
    rate = optax.linear_schedule(*jnp.exp(theta["rate"]), STEPS)
    return optax.chain(
        optax.clip_by_global_norm(0.5), optax.adamw(rate, theta["momentum"], eps_root=1e-6)
    )


def sgd(theta):
    return optax.sgd(jnp.exp(theta["rate"][0]), theta["momentum"], nesterov=True)


@cache
def gradient(estimator, optimizer=sgd, activation=jnp.tanh, samples=True, steps=STEPS):
    task = problem(activation, sample=views if samples else None)
    run = mc.meta_gradient(task, mc.descend(optimizer, steps), estimator)
    return jax.jit(run)(THETA, Z, KEY)


def distance(a, b):
    """Relative, of all derivatives; those that no float has are alike."""
    pairs = zip(
        jax.tree.leaves((a.by_theta, a.by_z)), jax.tree.leaves((b.by_theta, b.by_z)), strict=True
    )
    pairs = [(x, y) for x, y in pairs if x.dtype != jax.dtypes.float0]
    assert a.value == pytest.approx(float(b.value), rel=1e-12)
    norm = lambda xs: float(np.sqrt(sum(np.sum(np.square(x)) for x in xs)))
    return norm([x - y for x, y in pairs]) / norm([y for _, y in pairs])


@pytest.mark.parametrize(
    ("optimizer", "samples"),
    [
        (sgd, False),
        (adam, True),
        pytest.param(sgd, True, marks=pytest.mark.thorough),
        pytest.param(adam, False, marks=pytest.mark.thorough),
    ],
)
def test_exact_products_are_backpropagation(optimizer, samples):
    found = gradient(mc.Trajectory("exact"), optimizer, samples=samples)
    assert distance(found, gradient(mc.Unrolled(), optimizer, samples=samples)) < 1e-11
    assert not found.aux["flags"].raised()


@pytest.mark.parametrize(
    ("optimizer", "samples"),
    [(sgd, False), (adam, True), pytest.param(adam, False, marks=pytest.mark.thorough)],
)
def test_secants_are_to_the_error_they_expect(optimizer, samples):
    found = gradient(mc.Trajectory(), optimizer, samples=samples)
    error = distance(found, gradient(mc.Unrolled(), optimizer, samples=samples))
    # Theory: the change by half a step is three quarters of the error; a sum of sizes is above it.
    assert error < found.aux["error"] < 1e-6
    assert not found.aux["flags"].raised()


def test_the_error_of_a_secant_is_of_second_order():
    exact = gradient(mc.Unrolled())
    far, near = (distance(gradient(mc.Trajectory(h=h)), exact) for h in (2e-3, 1e-3))
    assert far / near == pytest.approx(4.0, rel=0.02)  # the next order is (h |phi|)^2 of it


@pytest.mark.parametrize("steps", [1, pytest.param(STEPS, marks=pytest.mark.thorough)])
def test_what_is_kept_changes_nothing(steps):
    roots, whole = (gradient(mc.Trajectory(h=1e-4, keep=k), steps=steps) for k in ("sqrt", "all"))
    assert distance(roots, whole) < 1e-9  # round-off over 2h
    assert roots.aux["error"] == pytest.approx(float(whole.aux["error"]), rel=1e-3)


@pytest.mark.thorough
def test_what_the_host_keeps():
    task = problem(sample=views)
    there, here = (
        mc.meta_gradient(task, mc.descend(sgd, 8), mc.Trajectory(h=1e-4, keep=keep))
        for keep in ("host", "all")
    )
    assert distance(jax.jit(there)(THETA, Z, KEY), jax.jit(here)(THETA, Z, KEY)) < 1e-12
    # What is kept of 8 steps, which no device has then.
    kept = [len(re.findall(r"f64<host>\[8,3,4\] ", text(run))) for run in (there, here)]
    assert kept[0] > 1 and kept[1] == 0
    assert "f64[8,3,4]" in text(here) and "f64[8,3,4]" not in text(there)


def text(run):
    return str(jax.make_jaxpr(run)(THETA, Z, KEY))


def test_no_loss_is_differentiated_twice():
    @jax.custom_vjp
    def once(x):
        return jnp.sum(jnp.sin(x))

    @jax.custom_jvp
    def slope(x):
        return jnp.cos(x)

    @slope.defjvp
    def twice(primals, tangents):
        raise AssertionError("a second derivative was asked for")

    once.defvjp(lambda x: (once(x), x), lambda x, g: (g * slope(x),))
    task = mc.Problem(
        lambda theta, z: theta, lambda phi, theta, z: once(phi - z), lambda phi, theta, z: once(phi)
    )
    theta, z = jnp.array([0.3, 1.0]), jnp.array([0.5, -0.5])
    solver = mc.descend(optax.adam(0.1), 5)
    found = mc.meta_gradient(task, solver, mc.Trajectory())(theta, z)
    assert np.all(np.isfinite(found.by_theta)) and np.all(np.isfinite(found.by_z))
    with pytest.raises(AssertionError, match="second derivative"):
        mc.meta_gradient(task, solver, mc.Unrolled())(theta, z)


@jax.custom_vjp
def opaque_relu(x):
    return jax.nn.relu(x)


opaque_relu.defvjp(lambda x: (jax.nn.relu(x), x > 0), lambda on, g: (g * on,))


def test_kinks_are_held_and_those_that_cannot_be_are_flagged():
    exact = gradient(mc.Unrolled(), activation=jax.nn.relu)
    found = gradient(mc.Trajectory(), activation=jax.nn.relu)
    assert distance(found, exact) < found.aux["error"] < 1e-6
    assert not found.aux["flags"].raised()
    unseen = gradient(mc.Trajectory(h=0.05), activation=opaque_relu, samples=False)
    assert unseen.aux["flags"].raised() == ["inexact"]
    mended = gradient(mc.Trajectory("exact"), activation=opaque_relu)
    assert not mended.aux["flags"].raised() and distance(mended, exact) < 1e-11


@pytest.mark.parametrize(("h", "flag"), [(10.0, "inexact"), (1e-15, "rounded")])
def test_a_step_that_is_much_too_long_or_too_short_is_flagged(h, flag):
    assert flag in gradient(mc.Trajectory(h=h), samples=False).aux["flags"].raised()


def test_an_adjoint_that_explodes_is_flagged():
    # phi goes away from a maximum, by 1.5 a step: 1.5^40 > 1e7.
    task = mc.Problem(
        lambda theta, z: theta, lambda p, theta, z: -0.5 * p**2, lambda p, theta, z: p
    )
    run = jax.jit(mc.meta_gradient(task, mc.descend(optax.sgd(0.5), 40), mc.Trajectory()))
    found = run(jnp.array(1e-6), None)
    assert float(found.by_theta) == pytest.approx(1.5**40, rel=1e-6)
    assert float(found.aux["growth"]) == pytest.approx(1.5**39, rel=1e-6)
    assert found.aux["flags"].raised() == ["inexact"]


def test_the_state_of_a_model_is_followed():
    # Batch norm's kind: an average that the inner loss moves, and the outer loss reads.
    def inner(phi, theta, z, mean):
        hidden = jnp.tanh(X @ phi)
        return jnp.mean((hidden - mean[None] - Y) ** 2), 0.9 * mean + 0.1 * jnp.mean(hidden)

    task = mc.Problem(
        lambda theta, z: theta, inner,
        lambda phi, theta, z, mean: jnp.mean((jnp.tanh(X @ phi) - mean[None]) ** 2),
        state=lambda theta, z: jnp.zeros(()),
    )  # fmt: skip
    solver, theta = mc.descend(optax.sgd(0.3, 0.5), 10), jnp.array([0.3, -0.2, 0.5])
    found, exact = (
        mc.meta_gradient(task, solver, rule)(theta, None).by_theta
        for rule in (mc.Trajectory(), mc.Unrolled())
    )
    np.testing.assert_allclose(found, exact, rtol=1e-6)


@pytest.mark.thorough
def test_units_of_the_losses_do_not_matter():
    unit = 1e-8

    def run(scale):
        base = problem()
        task = mc.Problem(
            first, lambda *a: scale * base.inner(*a), lambda *a: scale * base.outer(*a)
        )
        solver = mc.descend(lambda theta: optax.sgd(0.05 / scale), 8)
        return jax.jit(mc.meta_gradient(task, solver, mc.Trajectory(), by_z=False))(THETA, Z)

    one, other = run(1.0), run(unit)
    assert float(other.aux["h"]) == pytest.approx(float(one.aux["h"]), rel=0.5)
    scaled = jax.tree.map(lambda g: g / unit, other.by_theta)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), scaled, one.by_theta)


@pytest.mark.thorough
def test_tasks_side_by_side_are_those_one_by_one():
    run = mc.meta_gradient(problem(), mc.descend(sgd, 8), mc.Trajectory())
    tasks = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), Z)
    both = jax.vmap(run, (None, 0))(THETA, tasks)
    second = run(THETA, jax.tree.map(lambda a: a[1], tasks))
    np.testing.assert_allclose(both.by_theta["start"][1], second.by_theta["start"], rtol=1e-7)
    np.testing.assert_allclose(both.aux["error"][1], second.aux["error"], rtol=0.5)  # of round-off


def test_narrow_weights_are_differenced_in_a_wide_type():
    def by_theta(dtype, rule):
        task = mc.Problem(
            lambda theta, z: theta.astype(dtype),
            lambda phi, theta, z: jnp.mean((jnp.tanh(X.astype(jnp.float32) @ phi) - 0.5) ** 2),
            lambda phi, theta, z: jnp.mean(jnp.sin(X.astype(jnp.float32) @ phi)),
        )
        theta = jnp.array([0.5, 0.25, -0.5], jnp.float32)
        return mc.meta_gradient(task, mc.descend(optax.sgd(0.25), 4), rule)(theta, None).by_theta

    found = by_theta("bfloat16", mc.Trajectory())
    # Four steps and their gradients are rounded to 8 bits in both.
    np.testing.assert_allclose(found, by_theta("float32", mc.Unrolled()), rtol=0.1, atol=0.01)


@pytest.mark.parametrize(
    ("solver", "name"),
    [
        (mc.until_converged(optax.sgd(0.1), 1e-3), "stops at a tolerance"),
        (mc.gauss_newton(3), "asks more"),
        (mc.as_solver(lambda loss, phi: jax.tree.map(
            jnp.add, phi, jax.jvp(jax.grad(loss), (phi,), (phi,))[1])), "asks more"),
    ],
)  # fmt: skip
def test_solvers_that_ask_for_more_than_gradients_are_refused(solver, name):
    with pytest.raises(TypeError, match=rf"solver: Trajectory .*{name}"):
        mc.meta_gradient(problem(), solver, mc.Trajectory())(THETA, Z)


def test_solvers_that_search_a_line_are_refused():
    solver = mc.descend(optax.lbfgs(), 3)
    with pytest.raises(TypeError, match="solver: Trajectory goes back through all"):
        mc.meta_gradient(problem(), solver, mc.Trajectory())(THETA, Z)


@pytest.mark.parametrize(
    ("name", "value"), [("h", 0.0), ("h", np.nan), ("keep", "none"), ("product", "secants")]
)
def test_bad_arguments_are_named(name, value):
    with pytest.raises(ValueError, match=rf"^{name}:"):
        mc.Trajectory(**{name: value})


def test_a_rate_that_no_loss_sees_is_for_trajectory_not_for_contrasts():
    with pytest.raises(ValueError, match=r"rate.*Trajectory"):
        mc.meta_gradient(problem(), mc.descend(sgd, 8), mc.Contrastive(0.1))(THETA, Z)
