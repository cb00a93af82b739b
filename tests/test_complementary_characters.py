"""The small image task of the complementary systems: its tasks, its learners, a run."""

import json

import jax
import numpy as np
import pytest
from problems import EPS

from metacontrast.experiments import complementary_characters as characters
from metacontrast.experiments.complementary import parts
from metacontrast.tasks import Images


@pytest.fixture(autouse=True)
def made_up(monkeypatch):
    """Characters made up: a mark whose place is its class, on grey noise."""
    pixels = np.random.default_rng(0).integers(0, 60, (8, 20, 14, 14, 1)).astype(np.uint8)
    for c in range(8):
        pixels[c, :, 1 + c : 3 + c, 2:9] = 255
    images = Images(pixels, tuple("abcdefgh"))
    monkeypatch.setattr(characters, "omniglot", lambda part, size: images)


def test_classes_come_in_turn():
    task = jax.jit(characters.drawer("train", 5))(jax.random.key(0))
    assert task.train.x.shape == (5, 14, 14, 1)
    np.testing.assert_array_equal(task.test.y, np.tile(np.arange(5), 5))
    # The images go where their labels go: an image is nearest to the example of its class.
    way = np.square(np.asarray(task.test.x)[:, None] - np.asarray(task.train.x)).sum((2, 3, 4))
    assert np.mean(np.argmin(way, 1) == task.test.y) > 0.9


def test_online_is_batch_up_to_round_off():
    task = jax.jit(characters.drawer("train", 5))(jax.random.key(1))
    omega = characters.NET.init(jax.random.key(2))
    theta = omega, jax.tree.map(lambda x: np.full_like(x, np.log(0.1)), omega)
    grads = {}
    for name in ("online", "batch"):
        settings = characters.METHODS[name]
        solve, rule = parts(name, settings, characters._item)
        found = jax.jit(
            lambda theta, solve=solve, rule=rule: rule.value_and_grad(
                characters.PROBLEM, solve, theta, task
            )
        )
        grads[name] = found(theta)[1]
    # Each tag adds two readings, lambda |phi - omega| (1 + |phi - omega|) at most, over beta; no
    # weight is ten away from its omega.
    for a, b in zip(*map(jax.tree.leaves, grads.values()), strict=True):
        np.testing.assert_allclose(a, b, atol=1e3 * EPS * 10 / settings.beta, rtol=0)


def test_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr(characters, "TEST_TASKS", 20)
    monkeypatch.setattr(characters, "VALID_TASKS", 5)
    result = characters.run("online", seed=0, steps=3, out=tmp_path)
    assert json.loads((tmp_path / "result.json").read_text()) == result
    assert result["n_tasks"] == 20 and 20 < result["value"] <= 100


@pytest.mark.parametrize(
    ("name", "seed", "message"), [("no", 0, "method: unknown 'no'"), ("batch", 2**31 - 2, "seed: ")]
)
def test_bad_input_is_refused(name, seed, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        characters.run(name, seed, out=tmp_path)
