"""What a model carries from step to step beside phi, and inner losses that are means over views."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import EPS

import metacontrast as mc
from metacontrast.train import evaluate

# A model that carries a running mean of phi, which judges it. Each step takes phi by hand.

RATE, KEEP, STEPS = 0.1, 0.7, 12
THETA, Z, KEY = jnp.array([0.5, -1.0]), jnp.array([2.0, 1.0]), jax.random.key(3)


def inner(phi, theta, z, state):
    value = jnp.sum((phi - z) ** 2) + jnp.sum((phi - theta) ** 2)
    return value, KEEP * state + (1 - KEEP) * jnp.tanh(phi)


def outer(phi, theta, z, state):
    return jnp.sum(phi * state) + jnp.sum(state**2)


PROBLEM = mc.Problem(
    init=lambda theta, z: theta + 1.0,
    inner=inner,
    outer=outer,
    state=lambda theta, z: 0.1 * z,
)
SOLVER = mc.descend(optax.sgd(RATE), STEPS)


def by_hand(theta, beta=0.0, phi=None, state=None):
    """A phase: phi, and the running mean of where the gradients were taken."""
    theta, z = np.asarray(theta), np.asarray(Z)
    phi = theta + 1.0 if phi is None else phi
    state = 0.1 * z if state is None else state
    for _ in range(STEPS):
        slope = 2 * (phi - z) + 2 * (phi - theta) + beta * state
        phi, state = phi - RATE * slope, KEEP * state + (1 - KEEP) * np.tanh(phi)
    return phi, state


def close(a, b):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e3 * EPS, atol=1e2 * EPS), a, b
    )


def test_each_step_hands_its_state_to_the_next():
    solution = mc.solve_inner(PROBLEM, SOLVER, THETA, Z)
    close((solution.phi, solution.model), by_hand(THETA))


def test_the_outer_loss_is_given_the_state_of_where_it_is_taken():
    phi, state = by_hand(THETA)
    loss = mc.meta_loss(PROBLEM, SOLVER, mc.Contrastive(0.1))
    close(loss(THETA, Z), np.sum(phi * state) + np.sum(state**2))
    tasks = jnp.stack([Z, Z])
    close(evaluate(PROBLEM, SOLVER, THETA, tasks), 2 * [np.sum(phi * state) + np.sum(state**2)])
    shown = lambda phi, theta, z, state: jnp.sum(state)
    close(evaluate(PROBLEM, SOLVER, THETA, tasks, metric=shown), 2 * [np.sum(state)])


@pytest.mark.filterwarnings("ignore:the meta-gradient may be wrong")
def test_nudged_phases_begin_with_the_state_of_the_free_one():
    beta = 0.05
    phi_0, state_0 = by_hand(THETA)
    meta = mc.meta_gradient(PROBLEM, SOLVER, mc.Contrastive(beta))(THETA, Z)
    phi, state = by_hand(THETA, beta, phi_0, state_0)
    (end,) = meta.phases.nudged
    close((end.phi, end.model), (phi, state))
    # Of the losses only the inner one sees theta: dL_in/dtheta = 2 (theta - phi).
    np.testing.assert_allclose(meta.by_theta, 2 * (phi_0 - phi) / beta, atol=1e2 * EPS / beta)
    # The next meta-gradient goes on from there.
    again = mc.meta_gradient(PROBLEM, SOLVER, mc.Contrastive(beta))(THETA, Z, None, meta.phases)
    close(again.phases.free.model, by_hand(THETA, 0.0, phi_0, state_0)[1])


@pytest.mark.parametrize("rule", [mc.Unrolled(), mc.Unrolled(remat=True)])
def test_backpropagation_goes_through_the_state(rule):
    def value(theta):
        phi, state = by_hand(theta)
        return np.sum(phi * state) + np.sum(state**2)

    step = 1e-5
    differences = [
        (value(THETA + step * e) - value(THETA - step * e)) / (2 * step) for e in np.eye(2)
    ]
    found = mc.meta_gradient(PROBLEM, SOLVER, rule)(THETA, Z).by_theta
    np.testing.assert_allclose(found, differences, rtol=1e-8)


@pytest.mark.filterwarnings("ignore:the meta-gradient may be wrong")
@pytest.mark.parametrize(
    ("rule", "solver"),
    [
        (mc.Implicit("exact"), SOLVER),
        (mc.FirstOrder(), SOLVER),
        (mc.Reptile(), SOLVER),
        (mc.Evolution(0.1), SOLVER),
        (
            mc.Contrastive(0.1, "symmetric", nudge="linear"),
            mc.until_converged(optax.sgd(RATE), 1e-9),
        ),
        (mc.Contrastive(0.1), mc.newton_cg(1e-9)),
        (mc.Contrastive(0.1), mc.as_solver(lambda loss, phi: phi - RATE * jax.grad(loss)(phi))),
    ],
)
def test_every_estimator_and_kind_of_solver_carries_it(rule, solver):
    meta = mc.meta_gradient(PROBLEM, solver, rule, by_z=False)(THETA, Z, KEY)
    end = mc.solve_inner(PROBLEM, solver, THETA, Z, KEY)
    close(meta.value, outer(end.phi, THETA, Z, end.model))
    assert np.isfinite(meta.by_theta).all()


@pytest.mark.parametrize(
    ("loss", "returned"),
    [
        (lambda *at: inner(*at)[0], "none"),
        (lambda *at: (inner(*at)[0], jnp.zeros(3)), r"float64\[3\]"),
    ],
)
def test_an_inner_loss_that_loses_the_state_is_refused(loss, returned):
    with pytest.raises(ValueError, match=rf"^problem\.inner: .*\(value, state\).*not {returned}"):
        mc.check(replace(PROBLEM, inner=loss), THETA, Z)


def test_losses_without_a_place_for_the_state_are_refused():
    with pytest.raises(TypeError, match=r"^inner: is called with \(phi, theta, z, state\)"):
        replace(PROBLEM, inner=lambda phi, theta, z: jnp.sum(phi))


# Views

NOISY = mc.Problem(
    init=lambda theta, z: jnp.zeros(2),
    inner=lambda phi, theta, z: jnp.sum((phi - z[0] - jnp.exp(theta) * z[1]) ** 2),
    outer=lambda phi, theta, z: jnp.sum((phi - 1.0) ** 2),
    sample=lambda z, key: (z[0], jax.random.normal(key, (2,))),
    views=20,
)
TASK = (jnp.array([2.0, 0.0]), jnp.zeros(2))


def drawn(views):
    return [mc.Loss(NOISY, jnp.zeros(()), TASK, KEY).view(t).z for t in range(views)]


def test_the_inner_loss_of_a_task_is_the_mean_over_its_views():
    phi, theta = jnp.array([0.3, -0.2]), jnp.array(0.5)
    loss = mc.Loss(NOISY, theta, TASK, KEY)
    each = [NOISY.inner(phi, theta, z) for z in drawn(20)]
    close(loss(phi), np.mean(each))
    slopes = [jax.grad(NOISY.inner)(phi, theta, z) for z in drawn(20)]
    close(jax.grad(loss)(phi), np.mean(slopes, axis=0))


def test_a_strength_of_noise_is_contrasted_over_the_views_that_were_learned_from():
    """With z itself, in which there is no noise, its gradient would be 0."""
    theta = jnp.array(-0.5)
    rule = mc.Contrastive(1e-3, "symmetric", nudged=mc.closed_form())
    run = lambda problem, rule: mc.meta_gradient(problem, mc.closed_form(), rule)(theta, TASK, KEY)
    # At the minimum over the views, phi = z + e^theta (their mean noise). Equal curvatures within
    # and without make the relative error of the symmetric difference beta^2, 1e-6.
    mean = np.mean([z[1] for z in drawn(20)], axis=0)
    phi = np.asarray(TASK[0]) + np.exp(-0.5) * mean
    np.testing.assert_allclose(
        run(NOISY, rule).by_theta, np.sum(2 * (phi - 1) * np.exp(-0.5) * mean), rtol=1.1e-6
    )
    blind = replace(NOISY, views=None)
    assert abs(run(blind, rule).by_theta) < 1e-9


def test_views_need_something_to_draw():
    with pytest.raises(ValueError, match=r"^views: are what `sample` draws; give sample too"):
        replace(NOISY, views=3, sample=None)
    with pytest.raises(ValueError, match=r"^views: must be a whole number of at least 1, not 0"):
        replace(NOISY, views=0)
