import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metacontrast as mc
from metacontrast._estimator._evolution import PERTURBATIONS
from metacontrast._solver._base import advance
from metacontrast._solver._evolve import antithetic

KEY = jax.random.key(3)


def curved(theta):
    return jnp.sum(jnp.sin(theta["a"])) + theta["b"] ** 3


def test_antithetic_is_its_definition():
    theta, sigma, pairs = {"a": jnp.array([0.3, 1.0]), "b": jnp.array(0.5)}, 0.2, 4
    noise = jax.random.normal(KEY, (pairs, 3))
    expected = 0.0
    for e in noise:
        moved = [{"a": theta["a"] + s * e[:2], "b": theta["b"] + s * e[2]} for s in (sigma, -sigma)]
        expected += (curved(moved[0]) - curved(moved[1])) * e / (2 * sigma * pairs)
    found = antithetic(curved, theta, KEY, sigma, pairs)
    np.testing.assert_allclose(jnp.append(found["a"], found["b"]), expected, rtol=1e-12)


def noisy(learner_noise):
    return mc.Problem(
        init=lambda theta, task: theta,
        inner=lambda phi, theta, z: jnp.sum((phi - z) ** 2) + mc.Synapse(theta).pull(phi),
        outer=lambda phi, theta, z: jnp.sum((phi - 1.0) ** 2),
        sample=lambda z, key: z + learner_noise * jax.random.normal(key, z.shape),
    )


def test_the_estimate_is_that_of_the_meta_loss():
    problem, solve = noisy(1.0), mc.descend(optax.sgd(0.1), 5)
    theta, task = jnp.array([0.2, -0.4]), jnp.array([1.0, 2.0])
    rule = mc.Evolution(sigma=0.1, pairs=3)
    loss = mc.meta_loss(problem, solve, rule)
    value, grad = jax.value_and_grad(loss)(theta, task, KEY)
    perturbing = jax.random.fold_in(KEY, PERTURBATIONS)
    by_hand = antithetic(lambda theta: loss(theta, task, KEY), theta, perturbing, 0.1, 3)
    np.testing.assert_allclose(grad, by_hand, rtol=1e-10)
    np.testing.assert_allclose(value, loss(theta, task, KEY), rtol=1e-12)


@pytest.mark.thorough
def test_pairs_share_their_random_numbers():
    # Noise that is added to the data moves phi alike in all runs: a quadratic meta-loss then has
    # the same second difference, and the estimate differs by (mean noise)' e e' alone.
    solve, theta, task = mc.descend(optax.sgd(0.1), 5), jnp.array([0.2, -0.4]), jnp.ones(2)
    rule = lambda sigma: mc.meta_gradient(noisy(100.0), solve, mc.Evolution(sigma, 2))
    spread = lambda sigma: rule(sigma)(theta, task, KEY).by_theta
    np.testing.assert_allclose(spread(1e-6), spread(1e-3), rtol=1e-4)


def test_the_mean_is_the_gradient_of_the_smoothed_loss():
    # E sin(x + sigma e) = exp(-sigma^2 / 2) sin x, and E (x + sigma e)^3 = x^3 + 3 sigma^2 x.
    theta, sigma, pairs = {"a": jnp.array([0.3, 1.0]), "b": jnp.array(0.5)}, 0.5, 200_000
    found = antithetic(curved, theta, KEY, sigma, pairs)
    smooth = np.exp(-(sigma**2) / 2) * np.cos(theta["a"])
    np.testing.assert_allclose(found["a"], smooth, atol=0.02)
    np.testing.assert_allclose(found["b"], 3 * 0.5**2 + 3 * sigma**2, atol=0.02)


def test_learning_without_gradients():
    # A loss whose derivative is 0 wherever it has one.
    steps = lambda phi: jnp.sum(jnp.floor(20 * jnp.abs(phi - 1.0)))
    solve = mc.evolve(optax.sgd(2e-3), 300, sigma=0.2, pairs=16)
    phi = jax.jit(lambda phi0: solve(steps, phi0).phi)(jnp.zeros(3))
    assert jnp.abs(phi - 1.0).max() < 0.15


def test_evolve_draws_the_same_perturbations_in_every_phase():
    # So that a contrast is not noise divided by beta, even unconverged: here it is exact.
    problem = mc.Problem(
        init=lambda theta, task: theta,
        inner=lambda phi, theta, z: jnp.sum((phi - z) ** 2) + mc.Synapse(theta).pull(phi),
        outer=lambda phi, theta, z: jnp.sum(phi),
    )
    solve = mc.evolve(optax.sgd(0.05), 10, sigma=0.1, pairs=2)
    theta, task = jnp.array([0.2, -0.4]), jnp.ones(2)
    contrast = lambda beta: jax.grad(
        mc.meta_loss(problem, solve, mc.Contrastive(beta, control=True))
    )(theta, task)
    np.testing.assert_allclose(contrast(1e-5), contrast(1e-2), rtol=1e-6)
    other = mc.evolve(optax.sgd(0.05), 10, sigma=0.1, pairs=2, seed=1)
    assert not jnp.allclose(solve(jnp.sum, theta).phi, other(jnp.sum, theta).phi)


def test_each_step_of_evolve_draws_perturbations_of_its_own():
    loss, phi = lambda phi: jnp.sum(phi**2), jnp.array([1.0, -2.0])
    found = mc.evolve(optax.sgd(0.1), 3, sigma=0.2, pairs=1, seed=5)(loss, phi).phi
    for t in range(3):
        key = jax.random.fold_in(jax.random.key(5), t)
        phi = phi - 0.1 * antithetic(loss, phi, key, 0.2, 1)
    np.testing.assert_allclose(found, phi, rtol=1e-12)


def test_evolve_can_be_run_in_parts():
    solver, phi = mc.evolve(optax.adam(0.05), 7, sigma=0.1), jnp.array([1.0, 2.0])
    quartic = lambda phi, theta, z: jnp.sum(phi**4)
    loss = mc.Loss(mc.Problem(lambda theta, z: phi, quartic, quartic), None, None)
    state, _ = advance(solver, loss, solver.init(loss, phi), 0, 3)
    state, _ = advance(solver, loss, state, 3, 4)
    np.testing.assert_allclose(state.phi, solver(loss, phi).phi, rtol=1e-12)


def test_bad_input():
    with pytest.raises(ValueError, match="sigma: must be positive"):
        mc.Evolution(sigma=0.0)
    with pytest.raises(ValueError, match="pairs: must be a whole number"):
        mc.Evolution(sigma=0.1, pairs=0)
    with pytest.raises(ValueError, match="sigma: must be positive"):
        mc.evolve(optax.sgd(0.1), 3, sigma=-1.0)
    with pytest.raises(ValueError, match="key: Evolution draws"):
        rule = mc.Evolution(0.1)
        solver = mc.descend(optax.sgd(0.1), 1)
        mc.meta_gradient(noisy(0.0), solver, rule)(jnp.ones(2), jnp.ones(2))
