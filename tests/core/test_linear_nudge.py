"""The linear nudge against dense implicit differentiation: exact or of its order in beta."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import optax
import pytest
from cases import CASES, distance, exact
from problems import EPS

import metacontrast as mc


def linear(beta, scheme="symmetric", order=None, **words):
    return mc.Contrastive(beta, scheme, order, nudge="linear", **words)


def errors(problem, rule, betas):
    """Of the converged learner's gradients at all betas, by one program."""
    learner, theta, task, _ = CASES[problem]()
    phi, truth = exact(problem)
    metas = at_betas(problem, mc.newton_cg(1e-12), rule, betas)
    for meta in metas:
        assert float(meta.value) == pytest.approx(float(learner.outer(phi, theta, task)), rel=1e-9)
    return [distance(meta.by_theta, truth) for meta in metas]


def at_betas(problem, solver, rule, betas):
    gradient = jax.jit(lambda beta: gradient_by(problem, solver, replace(rule, beta=beta)))
    return [gradient(beta) for beta in betas]


def gradient_by(problem, solver, rule):
    learner, theta, task, _ = CASES[problem]()
    return mc.meta_gradient(learner, solver, rule, by_z=False)(theta, task)


def test_exact_for_quadratic_inner_losses_whatever_beta():
    # With lambda the cross derivative is bilinear, whose symmetric difference is exact too.
    betas = (1.0, -0.1, 0.01)
    for beta, error in zip(betas, errors("ridge", linear(1.0), betas), strict=True):
        assert error < 1e-9 / abs(beta)


@pytest.mark.parametrize(("scheme", "order"), [("forward", 1), ("forward", 2), ("symmetric", 2)])
def test_the_error_falls_as_beta_to_the_order(scheme, order):
    wide, narrow = errors("network", linear(1.0, scheme, order), (0.02, 0.005))
    assert 0.6 * 4**order < wide / narrow < 1.8 * 4**order


def test_phases_without_test_data_in_them():
    learner, theta, task, rate = CASES["ridge"]()
    looks = []

    def outer(phi, theta, task):
        looks.append(1)
        return learner.outer(phi, theta, task)

    watched = replace(learner, outer=outer)
    solver = mc.descend(optax.sgd(rate), 800)
    meta = mc.meta_gradient(watched, solver, linear(0.01), by_z=False)(theta, task)
    # In tracing: three times in the checks, value and slope, and in the diagnostics a slope and the
    # values of three phases. No look for each of 1,600 steps.
    assert len(looks) <= 8
    assert distance(meta.by_theta, exact("ridge")[1]) < 1e-3
    assert len(meta.aux["distance"]) == 2


def test_views_that_are_the_data_themselves_change_nothing():
    learner, theta, task, rate = CASES["ridge"]()
    solver, rule = mc.descend(optax.sgd(rate), 300), linear(0.1, damping=0.2)
    plain = mc.meta_gradient(learner, solver, rule, by_z=False)(theta, task).by_theta
    sampled = mc.meta_gradient(replace(learner, sample=lambda z, key: z), solver, rule, by_z=False)
    assert distance(plain, sampled(theta, task, jax.random.key(2)).by_theta) < 1e-12
    with pytest.raises(ValueError, match="key: "):
        sampled(theta, task)


@pytest.mark.filterwarnings("ignore:the meta-gradient may be wrong")
@pytest.mark.parametrize("damping", [0.0, 0.7])
def test_anchored_it_is_implicit_differentiation_where_learning_stopped_early(damping):
    early = mc.descend(optax.sgd(CASES["ridge"]().rate), 3)
    truth = gradient_by("ridge", early, mc.Implicit("exact", damping=damping)).by_theta
    rule = linear(1.0, nudged=mc.newton_cg(1e-12), damping=damping)
    meta = gradient_by("ridge", early, rule)
    assert distance(meta.by_theta, truth) < 1e-8
    assert float(meta.aux["residual"]) > 1e-3  # early indeed
    # The slope that is left would be mistaken for the nudge's.
    loose = gradient_by("ridge", early, replace(rule, damping=None, scheme="forward"))
    assert loose.aux["flags"].unconverged and not meta.aux["flags"].unconverged
    assert distance(loose.by_theta, truth) > 1e-2


@pytest.mark.parametrize(("scheme", "order"), [("forward", 1), ("symmetric", 2)])
def test_anchored_the_error_falls_as_beta_to_the_order(scheme, order):
    early = mc.descend(optax.sgd(CASES["network"]().rate), 100)
    truth = gradient_by("network", early, mc.Implicit("exact", damping=0.5)).by_theta
    rule = linear(1.0, scheme, nudged=mc.newton_cg(1e-12), damping=0.5)
    metas = at_betas("network", early, rule, (0.02, 0.005))
    wide, narrow = (distance(meta.by_theta, truth) for meta in metas)
    assert 0.6 * 4**order < wide / narrow < 1.8 * 4**order


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
        rule = lambda beta: linear(beta, "forward", damping=damping)
        meta = jax.jit(lambda beta: mc.meta_gradient(learner, solve, rule(beta))(theta, task, key))
        return [float(meta(beta).aux["distance"][0]) for beta in (1e-2, 1e-4)]

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
    meta = mc.meta_gradient(flat, mc.closed_form(), linear(0.1))(jnp.ones(2), None)
    assert meta.by_theta.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ({"beta": 0.0}, "beta: "),
        ({"nudge": "outer", "damping": 0.1}, "damping: "),
        ({"nudge": "straight"}, "nudge: "),
        ({"damping": 0.1, "control": True}, "damping: "),
        ({"damping": -1.0}, "damping: "),
        ({"damping": float("nan")}, "damping: "),
    ],
)
@pytest.mark.wrong_types
def test_errors(words, name):
    with pytest.raises(ValueError, match=name):
        mc.Contrastive(**({"beta": 0.1, "nudge": "linear"} | words))


@pytest.mark.parametrize("scheme", ["forward", "symmetric"])
def test_without_a_beta_it_is_the_one_that_the_curvature_asks_for(scheme):
    """At a displacement of 0.3 eps^(1/(1+order)): the error of the scheme, and round-off."""
    order = {"forward": 1, "symmetric": 2}[scheme]
    learner, theta, task, _ = CASES["network"]()
    rule = mc.Contrastive(None, scheme, nudge="linear", nudged=mc.newton_cg(1e-12))
    meta = jax.jit(mc.meta_gradient(learner, mc.newton_cg(1e-12), rule))(theta, task)
    moved = 0.3 * EPS ** (1 / (1 + order))
    error = distance(meta.by_theta, exact("network")[1]) / float(optax.tree.norm(meta.by_theta))
    assert error < 100 * (moved**order + EPS / moved)
    with pytest.raises(ValueError, match=r"^beta: only that of a linear nudge"):
        mc.Contrastive(None)
