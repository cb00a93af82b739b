"""The linear nudge against dense implicit differentiation: exact or of its order in beta."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import optax
import pytest
from matrix_problems import CASES, PROBLEMS, QUADRATIC, distance, exact

import metacontrast as mc


def error(problem, rule):
    learner, theta, task, _ = CASES[problem]()
    # Not the matrix's solver, which puts the outer loss itself in place of the linear one.
    solve = mc.newton_cg(1e-12)
    (value, told), grad = rule.value_and_grad(learner, solve, theta, task)
    phi, truth = exact(problem)
    assert float(value) == pytest.approx(float(learner.outer(phi, theta, task)), rel=1e-9)
    return distance(grad, truth), told


@pytest.mark.parametrize("beta", [1.0, -0.1, 0.01])
@pytest.mark.parametrize("problem", QUADRATIC)
def test_exact_for_quadratic_inner_losses_whatever_beta(problem, beta):
    # With lambda the cross derivative is bilinear, whose symmetric difference is exact too.
    assert error(problem, mc.LinearNudge(beta))[0] < 1e-9 / abs(beta)


@pytest.mark.parametrize(("scheme", "order"), [("forward", 1), ("forward", 2), ("symmetric", 2)])
@pytest.mark.parametrize("problem", ["logistic", "network"])
def test_the_error_falls_as_beta_to_the_order(problem, scheme, order):
    wide, narrow = (error(problem, mc.LinearNudge(b, scheme, order))[0] for b in (0.02, 0.005))
    assert 0.6 * 4**order < wide / narrow < 1.8 * 4**order


@pytest.mark.parametrize("problem", PROBLEMS)
def test_phases_without_test_data_in_them(problem):
    _, theta, task, rate = CASES[problem]()
    looks = []

    def outer(phi, theta, task):
        looks.append(1)
        return CASES[problem]().problem.outer(phi, theta, task)

    learner = replace(CASES[problem]().problem, outer=outer)
    solve = mc.descend(optax.sgd(rate), 800)
    (_, told), grad = mc.LinearNudge(0.01).value_and_grad(learner, solve, theta, task)
    # In tracing: the check of shapes, value and slope, the diagnostics, once a node in the contrast
    # (but where the nudge is 1, at phi_0, never multiplied out). No look for each of 1,600 steps.
    assert len(looks) <= 6
    assert distance(grad, exact(problem)[1]) < 1e-3
    assert len(told["distance"]) == 2


def test_an_encoder_and_a_stochastic_learner():
    x = jax.random.normal(jax.random.key(0), (12, 3))
    task = mc.Task(mc.Data(x[:6], x[:6, 0]), mc.Data(x[6:], x[6:, 0]))
    features = lambda theta, task: jax.tree.map(
        lambda leaf: jnp.tanh(leaf @ theta["body"]) if leaf.ndim == 2 else leaf, task
    )
    mse = lambda phi, data: jnp.mean((data.x @ phi - data.y) ** 2)
    whole = mc.Problem(
        init=lambda theta, task: jnp.zeros(3),
        inner=lambda phi, theta, z: mse(phi, z.train) + jnp.exp(theta.log_lam) * phi @ phi,
        outer=lambda phi, theta, z: mse(phi, z.test) + 0.1 * jnp.sum(theta["body"] ** 2),
        encode=features,
    )
    theta = {"body": jax.random.normal(jax.random.key(1), (3, 3)), "log_lam": jnp.array(-1.0)}
    solve = mc.newton_cg(1e-12)
    _, truth = mc.Implicit("exact").value_and_grad(whole, solve, theta, task)
    _, grad = mc.LinearNudge(0.1).value_and_grad(whole, solve, theta, task)
    assert distance(grad, truth) < 1e-9

    # Views that are the data themselves change nothing; and a key is needed for them.
    sampled = replace(whole, sample=lambda z, key: z)
    descend = mc.descend(optax.sgd(0.2), 300)
    _, plain = mc.LinearNudge(0.1).value_and_grad(whole, descend, theta, task)
    key = jax.random.key(2)
    _, same = mc.LinearNudge(0.1).value_and_grad(sampled, descend, theta, task, key)
    assert distance(plain, same) < 1e-12
    with pytest.raises(ValueError, match="key: "):
        mc.LinearNudge(0.1).value_and_grad(sampled, descend, theta, task)


@pytest.mark.parametrize("damping", [0.0, 0.7])
@pytest.mark.parametrize("problem", QUADRATIC)
def test_anchored_it_is_implicit_differentiation_where_learning_stopped_early(problem, damping):
    learner, theta, task, rate = CASES[problem]()
    early = mc.descend(optax.sgd(rate), 3)
    implicit = mc.Implicit("exact", damping=damping)
    _, truth = implicit.value_and_grad(learner, early, theta, task)
    rule = mc.LinearNudge(1.0, nudged=mc.newton_cg(1e-12), damping=damping)
    (_, told), grad = rule.value_and_grad(learner, early, theta, task)
    assert distance(grad, truth) < 1e-8
    assert float(told["residual"]) > 1e-3  # early indeed
    # The slope that is left would be mistaken for the nudge's.
    _, loose = replace(rule, damping=None, scheme="forward").value_and_grad(
        learner, early, theta, task
    )
    assert distance(loose, truth) > 1e-2


def test_anchored_the_error_falls_as_beta_to_the_order():
    learner, theta, task, rate = CASES["network"]()
    early = mc.descend(optax.sgd(rate), 100)
    implicit = mc.Implicit("exact", damping=0.5)
    _, truth = implicit.value_and_grad(learner, early, theta, task)
    for scheme, order in (("forward", 1), ("symmetric", 2)):
        errors = []
        for beta in (0.02, 0.005):
            rule = mc.LinearNudge(beta, scheme, nudged=mc.newton_cg(1e-12), damping=0.5)
            _, grad = rule.value_and_grad(learner, early, theta, task)
            errors.append(distance(grad, truth))
        assert 0.6 * 4**order < errors[0] / errors[1] < 1.8 * 4**order


def test_anchored_a_learner_on_batches_stays_where_it_is_but_for_the_nudge():
    x = jax.random.normal(jax.random.key(0), (40, 3))
    task = mc.Task(mc.Data(x[:20], x[:20, 0] ** 2), mc.Data(x[20:], x[20:, 0]))
    mse = lambda phi, data: jnp.mean((data.x @ phi - data.y) ** 2)
    learner = mc.Problem(
        init=lambda theta, task: jnp.zeros(3),
        inner=lambda phi, theta, z: mse(phi, z.train) + jnp.exp(theta) * phi @ phi,
        outer=lambda phi, theta, z: mse(phi, z.test),
        sample=lambda z, key: z._replace(
            train=jax.tree.map(lambda leaf: leaf[jax.random.randint(key, (4,), 0, 20)], z.train)
        ),
    )
    solve = mc.descend(optax.sgd(0.05), 50)
    theta, key = jnp.array(-2.0), jax.random.key(1)

    def distances(damping):
        rules = [mc.LinearNudge(b, "forward", damping=damping) for b in (1e-2, 1e-4)]
        told = [r.value_and_grad(learner, solve, theta, task, key)[0][1] for r in rules]
        return [float(t["distance"][0]) for t in told]

    wide, narrow = distances(0.1)
    assert wide / narrow == pytest.approx(100, rel=1e-6)  # a quadratic's answer to a straight nudge
    # Without it the noise of the batches moves the nudged phase, however small the nudge.
    wide, narrow = distances(None)
    assert narrow > 0.5 * wide


def test_nothing_to_nudge_along():
    # At the minimum of the outer loss v is 0, which must not become NaN.
    flat = mc.Problem(
        init=lambda theta, task: jnp.zeros(2),
        inner=lambda phi, theta, task: jnp.sum((phi - theta) ** 2),
        outer=lambda phi, theta, task: jnp.sum(0.0 * phi) + jnp.sum(theta),
    )
    _, grad = mc.LinearNudge(0.1).value_and_grad(flat, mc.closed_form(), jnp.ones(2), None)
    assert grad.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ({"beta": 0.0}, "beta: "),
        ({"scheme": "holomorphic"}, "scheme: "),
        ({"damping": -1.0}, "damping: "),
        ({"damping": float("nan")}, "damping: "),
    ],
)
def test_errors(words, name):
    with pytest.raises(ValueError, match=name):
        mc.LinearNudge(**({"beta": 0.1} | words))
