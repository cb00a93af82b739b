"""The small image task of the complementary systems: its tasks, its learners, a run."""

import json

import complementary_characters as characters
import jax
import numpy as np
import pytest
from problems import EPS

import metacontrast as mc
from metacontrast.tasks import Images

METHODS = characters.METHODS


@pytest.fixture(autouse=True)
def made_up(monkeypatch):
    """Characters made up: a mark whose place is its class, on grey noise."""
    pixels = np.random.default_rng(0).integers(0, 60, (8, 20, 14, 14, 1)).astype(np.uint8)
    for c in range(8):
        pixels[c, :, 1 + c : 3 + c, 2:9] = 255
    images = Images(pixels, tuple("abcdefgh"))
    monkeypatch.setattr(characters, "omniglot", lambda part, size: images)


def task(key):
    return jax.jit(characters.sampler(METHODS["online"], "train", 5))(jax.random.key(key))


def test_classes_come_in_turn():
    train, (x, y) = task(0)
    assert train.x.shape == (5, 14, 14, 1)
    np.testing.assert_array_equal(y, np.tile(np.arange(5), 5))
    # The images go where their labels go: an image is nearest to the example of its class.
    way = np.square(np.asarray(x)[:, None] - np.asarray(train.x)).sum((2, 3, 4))
    assert np.mean(np.argmin(way, 1) == y) > 0.9


@pytest.mark.thorough
def test_online_is_batch_up_to_round_off():
    grads = {}
    for method in ("online", "batch"):
        s = METHODS[method]
        rule = mc.meta_gradient(characters.problem(s), *characters.learner(s))
        grads[method] = rule(characters.first_theta(s), task(1)).by_theta
    # Each tag adds two readings, lambda |phi - omega| (1 + |phi - omega|) at most, over beta; no
    # weight is ten away from its omega.
    for a, b in zip(*map(jax.tree.leaves, grads.values()), strict=True):
        np.testing.assert_allclose(a, b, atol=1e3 * EPS * 10 / s.beta, rtol=0)


@pytest.mark.thorough
def test_a_run(start, tmp_path, capsys):
    few = ("--tasks", 2, "--test-tasks", 20, "--valid-tasks", 5, "--hidden", 8)
    assert start(characters, "--steps", 3, *few, "--out", tmp_path) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["n_tasks"] == 20 and 20 < result["value"] <= 100
    assert "accuracy in percent on tasks of test characters" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [(("--method", "no"), "method: unknown 'no'"), (("--seed", 2**31 - 2), "seed: ")],
)
def test_bad_input_is_refused(words, message, start, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = ("--test-tasks", 2, "--valid-tasks", 2)
    assert start(characters, *small, *words) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
