"""The wheel's rewards and regrets in closed form, and its offline tasks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metacontrast.tasks import wheel
from metacontrast.tasks._wheel import contexts, mean_rewards, regrets, rewards, uniform_regret

N = 20_000
X = jax.jit(contexts, static_argnums=1)(jax.random.key(0), N)


def assert_mean(values, expected):
    """The mean is `expected`, within 5 standard errors (false alarm: 6e-7)."""
    values = np.asarray(values)
    assert abs(values.mean() - expected) < 5 * values.std(ddof=1) / np.sqrt(len(values))


def test_contexts_are_uniform_in_the_disc():
    radius = np.linalg.norm(X, axis=1)
    assert radius.max() <= 1
    for r in (0.3, 0.8):
        assert_mean(radius < r, r**2)
    for quadrant in ((X[:, 0] > 0) & (X[:, 1] > 0), (X[:, 0] < 0) & (X[:, 1] < 0)):
        assert_mean(quadrant, 0.25)


def test_each_arm_pays_what_the_paper_says():
    x = jnp.array([[0.6, 0.6], [-0.6, 0.6], [0.6, -0.6], [-0.6, -0.6], [0.1, 0.1]])
    expected = np.tile([1.0, 1.0, 1.0, 1.0, 1.2], (5, 1))
    expected[[0, 1, 2, 3], [0, 1, 2, 3]] = 50.0  # outside 0.8; (0.1, 0.1) is within
    np.testing.assert_allclose(mean_rewards(x, 0.8), expected)
    lost = [regrets(x, jnp.full(5, arm), 0.8) for arm in range(5)]
    best = np.array([50.0, 50.0, 50.0, 50.0, 1.2])
    np.testing.assert_allclose(np.stack(lost, 1), best[:, None] - expected, rtol=1e-12)
    arm = jnp.array([0, 1, 0, 4, 4])
    noise = jnp.array([1.0, -1.0, 2.0, 0.0, 1.0])
    paid = [50.01, 49.99, 1.1, 1.2, 1.25]
    np.testing.assert_allclose(rewards(x, arm, 0.8, noise), paid, rtol=1e-12)


@pytest.mark.parametrize("delta", [0.5, 0.9, 0.99])
def test_uniform_play_regrets_what_the_formula_says(delta):
    by_hand = delta**2 * 0.8 * 0.2 + (1 - delta**2) * (0.2 * 48.8 + 0.6 * 49)
    assert uniform_regret(delta) == pytest.approx(by_hand, rel=1e-12)
    arm = jax.random.randint(jax.random.key(1), (N,), 0, 5)
    assert_mean(regrets(X, arm, delta), by_hand)


def test_offline_tasks_are_random_pulls_of_one_wheel():
    draw = jax.jit(jax.vmap(lambda key: wheel(key, pulls=100, fewest=10)))
    tasks = draw(jax.random.split(jax.random.key(2), 400))
    (x, pulled), test = jax.tree.map(np.asarray, tasks)
    assert_mean(np.mean(pulled.arm == 4, axis=1), 0.2)
    counted = pulled.weight.sum(axis=1)
    assert counted.min() >= 10 and counted.max() <= 100
    # Log uniform between 10 and 101: half are below the geometric mean, 31.8.
    assert_mean(counted < 32, np.log(32 / 10) / np.log(100.999 / 10))
    assert (np.diff(pulled.weight, axis=1) <= 0).all() and (test.y.weight == 1).all()
    # Whoever knows no delta sees 50 with probability (1/5) E[1 - delta^2] = 2/15.
    rich = pulled.reward > 25
    assert_mean(rich.mean(axis=1), 2 / 15)
    # Each wheel has one radius: what a quadrant's arm paid 50 at is outside what it paid 1 at.
    of_arm = lambda x, arm: mean_rewards(x, 0.0)[jnp.arange(100), arm]
    own = np.asarray(jax.jit(jax.vmap(of_arm))(x, pulled.arm)) == 50
    radius = np.linalg.norm(x, axis=2)
    inner = np.where(own & rich, radius, np.inf).min(axis=1)
    assert (inner > np.where(own & ~rich, radius, 0).max(axis=1)).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"pulls": 0}, "pulls"), ({"queries": 0}, "queries"), ({"fewest": 600}, "fewest")],
)
def test_numbers_that_cannot_be_drawn_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        wheel(jax.random.key(0), **wrong)
