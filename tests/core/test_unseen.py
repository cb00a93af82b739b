"""Leaves of theta that the losses do not see: learned, or refused by name, never 0 in silence."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metacontrast as mc

rng = np.random.default_rng(0)
X = jnp.asarray(rng.normal(size=(20, 2)))
Y = X @ jnp.array([1.0, -2.0])
TASK = mc.Task(mc.Data(X[:10], Y[:10]), mc.Data(X[10:], Y[10:]))
KEY = jax.random.key(0)


def mse(phi, data):
    return jnp.mean((data.x @ phi - data.y) ** 2)


def learner(init, extra=lambda phi, theta: 0.0):
    inner = lambda phi, theta, task: mse(phi, task.train) + extra(phi, theta)
    return mc.Problem(init, inner, lambda phi, theta, task: mse(phi, task.test))


# Theta is where learning starts, as in MAML, and how fast each weight learns, as in Meta-SGD.
problem = learner(lambda theta, task: theta["start"]["w"])
THETA = {"start": {"w": jnp.array([0.1, -0.2])}, "log_rate": jnp.log(jnp.array([0.1, 0.05]))}


def sgd(loss, phi):
    rate = jnp.exp(loss.theta["log_rate"])
    return jax.lax.scan(lambda p, _: (p - rate * jax.grad(loss)(p), None), phi, None, 5)[0]


@jax.jit
def value(theta):
    return mse(mc.solve_inner(problem, sgd, theta, TASK).phi, TASK.test)


def finite_difference(theta, step=1e-5):
    flat, unravel = jax.flatten_util.ravel_pytree(theta)
    along = step * jnp.eye(flat.size)
    return unravel(jnp.array([value(unravel(flat + e)) - value(unravel(flat - e)) for e in along])
                   / (2 * step))  # fmt: skip


RULES = {
    "contrastive": mc.Contrastive(0.01),
    "linear": mc.Contrastive(0.1, "symmetric", nudge="linear"),
    "cg": mc.Implicit("cg"),
    "exact": mc.Implicit("exact"),
}
NONE_OF = {name: "no loss depends on" for name in RULES}
NONE_OF["first order"] = "problem.init and problem.outer do not depend on"
NONE_OF["Reptile"] = "problem.init does not depend on"
RULES |= {"first order": mc.FirstOrder(), "Reptile": mc.Reptile()}


@pytest.mark.parametrize("name", RULES)
def test_what_a_rule_cannot_see_is_refused_by_name_with_what_can(name):
    lost = "theta['log_rate'], theta['start']['w']" if name not in list(RULES)[4:] else (
        "theta['log_rate']"
    )  # fmt: skip
    gradient = mc.meta_gradient(problem, sgd, RULES[name])
    loss = mc.meta_loss(problem, sgd, RULES[name])
    for call in (gradient, jax.jit(gradient), jax.grad(loss), jax.jit(jax.grad(loss))):
        with pytest.raises(ValueError) as refused:
            call(THETA, TASK)
        said = str(refused.value)
        assert said.startswith(f"theta: {NONE_OF[name]} {lost}, so that the rule gives 0 there")
        assert "Unrolled or Evolution" in said and "jax.lax.stop_gradient" in said


def test_unrolled_learns_it():
    found = mc.meta_gradient(problem, sgd, mc.Unrolled())(THETA, TASK).by_theta
    # A central difference in steps of 1e-5 has about 1e-10 of error.
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-7), found, finite_difference(THETA))


def test_evolution_learns_it():
    """Within four standard deviations of its estimate, and far from 0."""
    rule = mc.Evolution(1e-4, 2000)
    found = mc.meta_gradient(problem, sgd, rule)(THETA, TASK, KEY).by_theta
    found, exact = (jax.flatten_util.ravel_pytree(t)[0] for t in (found, finite_difference(THETA)))
    # The estimate has a variance of (|g|^2 + g_i^2) / pairs in each of four components.
    spread = jnp.sqrt((exact @ exact + exact**2) / rule.pairs)
    assert jnp.all(jnp.abs(found - exact) < 4 * spread)
    assert jnp.linalg.norm(found) > 0.5 * jnp.linalg.norm(exact)


# Leaves of which no gradient is asked


@pytest.mark.parametrize("name", ["contrastive", "linear", "cg", "exact"])
def test_what_is_not_to_be_learned_is_not_asked_for(name):
    pulled = learner(lambda theta, task: theta["w0"], lambda p, t: jnp.exp(t["l"]) * p @ p)
    solver, rule = mc.closed_form(), RULES[name]
    loss, w0, l0 = mc.meta_loss(pulled, solver, rule), jnp.zeros(2), jnp.array(-2.0)
    stopped = lambda t: loss(t | {"w0": jax.lax.stop_gradient(t["w0"])}, TASK)
    closed = lambda log: loss({"w0": w0, "l": log}, TASK)
    second = lambda w0, log: loss({"w0": w0, "l": log}, TASK)
    by_l = jax.grad(closed)(l0)
    assert by_l != 0
    both = jax.grad(stopped)({"w0": w0, "l": l0})
    assert both["l"] == by_l and jnp.all(both["w0"] == 0)
    assert jax.grad(second, 1)(w0, l0) == by_l
    assert jax.jit(jax.grad(second, 1))(w0, l0) == by_l
    with pytest.raises(ValueError, match=r"^theta: no loss depends on theta\['w0'\],"):
        jax.grad(second, (0, 1))(w0, l0)
    # The value alone asks for no gradient.
    assert jnp.isfinite(second(w0, l0))


def test_a_gradient_by_the_task_alone_asks_for_none_by_theta():
    loss = mc.meta_loss(problem, mc.closed_form(), mc.Contrastive(0.1))
    task = TASK._replace(test=TASK.test._replace(y=TASK.test.y + 1))
    grad = jax.grad(lambda z: loss(THETA, z))(task)
    assert jnp.all(jnp.isfinite(grad.train.x)) and jnp.any(grad.train.x != 0)


# Nothing there to be seen


def test_unused_leaves_of_no_size_are_nobodys_concern():
    pulled = learner(lambda theta, task: jnp.zeros(2), lambda p, t: jnp.exp(t["l"]) * p @ p)
    theta = {"l": jnp.array(-2.0), "empty": jnp.zeros((0, 3)), "none": None}
    grads = jax.grad(mc.meta_loss(pulled, mc.closed_form(), RULES["linear"]))(theta, TASK)
    assert grads["empty"].shape == (0, 3) and grads["l"] != 0
    with pytest.raises(ValueError, match=r"depends on theta\['odd'\]\[1\]\.omega,"):
        mc.meta_gradient(pulled, mc.closed_form(), RULES["linear"])(
            theta | {"odd": (None, mc.Synapse(jnp.ones(2), None))}, TASK
        )


def test_a_leaf_that_only_a_branch_or_a_loop_reads_is_seen():
    def extra(phi, theta):
        added = jax.lax.cond(jnp.sum(phi) > 5, lambda: theta["a"] * phi @ phi, lambda: 0.0)
        body = lambda total, x: (total + jnp.exp(theta["b"]) * x**2, None)
        return added + jax.lax.scan(body, jnp.zeros(()), phi)[0]

    branching = learner(lambda theta, task: jnp.zeros(2), extra)
    theta = {"a": jnp.ones(()), "b": jnp.array(-2.0)}
    solver = mc.descend(optax.sgd(0.1), 200)
    found = mc.meta_gradient(branching, solver, mc.Contrastive(1e-4, "symmetric"))(theta, TASK)
    exact = mc.meta_gradient(branching, solver, mc.Unrolled())(theta, TASK).by_theta
    assert found.by_theta["a"] == exact["a"] == 0
    np.testing.assert_allclose(found.by_theta["b"], exact["b"], rtol=1e-5)


# What the solver closes over

CLOSED = r"^solver: it, or the problem, closes over a value that is being differentiated"


@pytest.mark.parametrize("name", ["contrastive", "linear", "cg", "unrolled", "evolution"])
def test_a_learned_rate_that_the_solver_closes_over(name):
    rule = (RULES | {"unrolled": mc.Unrolled(), "evolution": mc.Evolution(0.1)})[name]
    pulled = learner(lambda theta, task: jnp.zeros(2), lambda p, t: jnp.exp(t) * p @ p)

    def by_rate(rate, theta):
        return mc.meta_loss(pulled, mc.descend(optax.sgd(rate), 20), rule)(theta, TASK, KEY)

    theta = jnp.array(-1.0)
    for call in (jax.grad(by_rate), jax.grad(by_rate, (0, 1))):
        with pytest.raises(TypeError, match=CLOSED):
            call(0.1, theta)
    # Traced, and not differentiated by, it is a number like any other.
    compiled = jax.jit(jax.grad(by_rate, 1))(0.1, theta)
    many = jax.vmap(jax.grad(by_rate, 1), (0, None))(jnp.array([0.1, 0.05]), theta)
    np.testing.assert_allclose(many[0], compiled, rtol=1e-7)


def test_a_meta_gradient_by_a_rate_is_the_derivative_of_what_it_computes():
    pulled = learner(lambda theta, task: jnp.zeros(2), lambda p, t: jnp.exp(t) * p @ p)

    def value(rate):
        solver = mc.descend(optax.sgd(rate), 60)
        return mc.meta_gradient(pulled, solver, mc.Implicit("identity"))(
            jnp.array(-1.0), TASK
        ).value

    far = (value(0.1 + 1e-5) - value(0.1 - 1e-5)) / 2e-5
    np.testing.assert_allclose(jax.grad(value)(0.1), far, rtol=1e-5)


# An outer loss without a slope

FLAT = {
    "a share of right answers": lambda p, t, z: jnp.mean(jnp.round(p) == 1.0),
    "a stopped gradient": lambda p, t, z: jax.lax.stop_gradient(p @ p),
}
FEW = mc.descend(optax.sgd(0.1), 30)


def judged_by(outer):
    return mc.Problem(lambda t, z: t, lambda p, t, z: (p - t) @ (p - t) + p @ p, outer)


@pytest.mark.parametrize("outer", FLAT.values(), ids=FLAT)
@pytest.mark.parametrize(
    "rule",
    [mc.Contrastive(0.1), mc.Implicit("cg"), mc.Unrolled(), mc.Trajectory(), mc.FirstOrder()],
    ids=lambda rule: type(rule).__name__,
)
def test_an_outer_loss_without_a_slope_is_refused(rule, outer):
    flat = judged_by(outer)
    for gradient in (mc.meta_gradient(flat, FEW, rule), jax.grad(mc.meta_loss(flat, FEW, rule))):
        with pytest.raises(ValueError, match=r"problem\.outer: does not change smoothly"):
            gradient(jnp.ones(2), None)


@pytest.mark.parametrize(
    "outer",
    [
        lambda p, t, z: jnp.sum(p),
        lambda p, t, z: jnp.sum(t),
        lambda p, t, z: jnp.sum(jax.nn.relu(p - 100.0)),  # whose slope is 0 here, not everywhere
    ],
    ids=["of phi", "of theta alone", "flat here"],
)
def test_an_outer_loss_with_a_slope_is_not(outer):
    slope = mc.meta_gradient(judged_by(outer), FEW, mc.Contrastive(0.1))(jnp.ones(2), None).by_theta
    assert jnp.all(jnp.isfinite(slope))


def test_evolution_needs_no_slope():
    flat = judged_by(lambda p, t, z: -jnp.mean(p > 0.6))
    found = mc.meta_gradient(flat, FEW, mc.Evolution(1.0, 64))(jnp.ones(2), None, KEY)
    assert jnp.all(found.by_theta < 0)  # the larger theta, the more often phi is above
