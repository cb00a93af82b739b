"""Hyper-cleaning: its corruption, its detector's score, and runs from the command line."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command import command
from test_images import needs

import metacontrast as mc
from metacontrast.experiments import hypercleaning
from metacontrast.experiments.hypercleaning import METHODS, detection, images, problem


@pytest.fixture
def digits(monkeypatch, tmp_path):
    """A small cache of easy digits, of which 120 are learned from and 80 validate."""
    random = np.random.default_rng(0)
    centres = random.integers(0, 256, (10, 28, 28))
    arrays = {}
    for part, n in (("train", 400), ("test", 50)):
        y = np.arange(n) % 10
        x = np.clip(centres[y] + random.normal(0, 150, (n, 28, 28)), 0, 255)
        arrays |= {f"x_{part}": x.astype(np.uint8), f"y_{part}": y.astype(np.uint8)}
    np.savez(tmp_path / "mnist.npz", **arrays)
    monkeypatch.setenv("METACONTRAST_DATA", str(tmp_path))
    monkeypatch.setattr(hypercleaning, "IMAGES", 120)
    monkeypatch.setattr(hypercleaning, "VALID", 80)
    return arrays


def test_half_of_the_labels_are_wrong_and_of_the_validation_set_none(digits):
    truth = {x.tobytes(): int(y) for x, y in zip(digits["x_train"], digits["y_train"], strict=True)}
    cleaning = images(seed=3)
    assert cleaning.wrong.sum() == 60

    def labels(x):
        pixels = np.rint((np.asarray(x) + cleaning.mean) * 255).astype(np.uint8)
        return [truth[image.tobytes()] for image in pixels.reshape(-1, 28, 28)]

    train, valid = cleaning.task
    np.testing.assert_array_equal(labels(train.x) != np.asarray(train.y), cleaning.wrong)
    np.testing.assert_array_equal(labels(valid.x), valid.y)
    assert train.y.min() >= 0 and train.y.max() <= 9
    np.testing.assert_allclose(train.x.mean(axis=0), 0, atol=1e-6)
    rows = {np.asarray(x).tobytes() for x in (*train.x, *valid.x)}
    assert len(rows) == 200  # no image is in both


def test_a_seed_is_its_own(digits):
    np.testing.assert_array_equal(images(3).task.train.x, images(3).task.train.x)
    assert not np.array_equal(images(3).wrong, images(4).wrong)


def test_detection_counts_pairs():
    theta = np.array([0.0, 1.0, 1.0, 2.0, -1.0])
    wrong = np.array([True, True, False, False, False])
    pairs = [(w, r) for w in theta[wrong] for r in theta[~wrong]]
    counted = np.mean([(w < r) + 0.5 * (w == r) for w, r in pairs])
    assert detection(theta, wrong) == pytest.approx(counted, rel=1e-12)
    assert detection(-1.0 * wrong, wrong) == 1
    assert detection(1.0 * wrong, wrong) == 0


def test_the_contrast_with_a_small_nudge_is_the_gradient_of_converged_learning(digits):
    task = images(0).task
    theta = jax.random.normal(jax.random.key(0), (120,))
    learner, solve = problem(1.0), mc.lbfgs(1e-9, 200)
    rule = replace(METHODS["cml"].estimator, beta=1e-3, nudged=solve)
    exact, found = (
        estimator.value_and_grad(learner, solve, theta, task)[1]
        for estimator in (mc.Implicit("cg", 1000), rule)
    )
    # The forward difference errs by O(beta), here with a factor of about one.
    np.testing.assert_allclose(found, exact, atol=1e-2 * jnp.abs(exact).max())


def test_runs_find_wrong_labels_and_leave_their_results(digits, monkeypatch, tmp_path, capsys):
    run = lambda method, *words: command(
        monkeypatch, "run", "hypercleaning", "--method", method, "--out", tmp_path / method, *words
    )
    methods = ("cml", "all", "valid")
    assert [run(method, "--steps", 5) for method in methods] == [0, 0, 0]
    results = {name: json.loads((tmp_path / name / "result.json").read_text()) for name in methods}
    assert results["cml"]["auc"] > 0.95
    assert results["cml"]["value"] > results["all"]["value"]
    assert results["valid"]["value"] == results["valid"]["with_valid"]
    assert results["all"]["auc"] is None and results["all"]["meta_steps"] == 0
    assert (tmp_path / "cml" / "weights.png").stat().st_size > 0
    assert "AUC" in capsys.readouterr().out
    assert run("cml", "--steps", 5, "--resume") == 0
    resumed = json.loads((tmp_path / "cml" / "result.json").read_text())
    assert resumed["value"] == results["cml"]["value"]
    assert run("nonsense") == 2


@needs("mnist.npz")
def test_on_real_digits_a_few_meta_steps_tell_wrong_labels(monkeypatch):
    monkeypatch.setattr(hypercleaning, "IMAGES", 500)
    monkeypatch.setattr(hypercleaning, "VALID", 500)
    task, wrong, _ = images(0)
    theta = jnp.zeros(500)
    rule = jax.jit(lambda theta: METHODS["cml"].estimator.value_and_grad(
        problem(1e-2), hypercleaning.FREE, theta, task))  # fmt: skip
    for _ in range(3):
        theta = theta - jnp.sign(rule(theta)[1])
    assert detection(theta, wrong) > 0.8
