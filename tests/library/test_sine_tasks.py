"""The sine tasks are drawn as published."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metacontrast.tasks import sine

N = 4000
TASKS = jax.jit(jax.vmap(sine))(jax.random.split(jax.random.key(0), N))
X, Y = (np.concatenate([a[..., 0], b[..., 0]], 1) for a, b in zip(*TASKS, strict=True))


def assert_mean(by_point, expected):
    """The mean is `expected`, within 5 standard errors over tasks (false alarm: 6e-7)."""
    by_task = by_point.mean(axis=1)
    assert abs(by_task.mean() - expected) < 5 * by_task.std(ddof=1) / np.sqrt(N)


def test_points_are_uniform():
    assert np.abs(X).max() <= 5
    assert_mean(X, 0.0)
    assert_mean(X**2, 25 / 3)


def test_amplitudes_are_uniform():
    # E[A^2] / 2, since a phase uniform over half a period makes E[sin^2] = 1/2 at every x.
    assert_mean(Y**2, (5**3 - 0.1**3) / (3 * 4.9) / 2)
    assert np.abs(Y).max() <= 5


def test_phases_are_uniform_over_half_a_turn():
    # E[y | x] = E[A] E[sin(x + p)] = 2.55 (2/pi) cos x; over a whole turn it would be 0.
    assert_mean(Y * np.cos(X), 2.55 * 2 / np.pi * (1 / 2 + np.sin(10) / 20))
    assert_mean(Y * np.sin(X), 0.0)


def test_support_and_query_are_one_sine():
    task = sine(jax.random.key(3), shots=10, queries=30)
    x, y = task.train.x[:, 0], task.train.y[:, 0]
    waves = lambda x: jnp.stack([jnp.sin(x), jnp.cos(x)], axis=1)
    mix = jnp.linalg.lstsq(waves(x), y)[0]
    np.testing.assert_allclose(waves(task.test.x[:, 0]) @ mix, task.test.y[:, 0], atol=1e-10)


@pytest.mark.parametrize("counts", [{"shots": 0}, {"queries": 0}])
def test_no_points_are_refused(counts):
    with pytest.raises(ValueError, match=next(iter(counts))):
        sine(jax.random.key(0), **counts)
