"""Hyper-cleaning: its corruption, its detector's score, and runs from its command."""

import json
import os
from dataclasses import replace
from pathlib import Path

import hypercleaning
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypercleaning import METHODS, detection, estimator, images, problem
from problems import meta_grad

import metacontrast as mc

MNIST = Path(os.environ.get("METACONTRAST_DATA", "")) / "mnist.npz"
SMALL = dict(images=120, valid_images=80)
WORDS = ("--images", 120, "--valid-images", 80, "--steps", 5)


@pytest.fixture
def digits(monkeypatch, tmp_path):
    """A small cache of easy digits, as its arrays."""
    random = np.random.default_rng(0)
    centres = random.integers(0, 256, (10, 28, 28))
    arrays = {}
    for part, n in (("train", 400), ("test", 50)):
        y = np.arange(n) % 10
        x = np.clip(centres[y] + random.normal(0, 150, (n, 28, 28)), 0, 255)
        arrays |= {f"x_{part}": x.astype(np.uint8), f"y_{part}": y.astype(np.uint8)}
    np.savez(tmp_path / "mnist.npz", **arrays)
    monkeypatch.setenv("METACONTRAST_DATA", str(tmp_path))
    return arrays


def cleaning(seed):
    return images(replace(METHODS["cml"], seed=seed, **SMALL))


def test_half_of_the_labels_are_wrong_and_of_the_validation_set_none(digits):
    truth = {x.tobytes(): int(y) for x, y in zip(digits["x_train"], digits["y_train"], strict=True)}
    (train, valid), is_wrong, mean = jax.tree.map(np.asarray, cleaning(3))
    assert is_wrong.sum() == 60

    def labels(x):
        pixels = np.rint((x + mean) * 255).astype(np.uint8)
        return [truth[image.tobytes()] for image in pixels.reshape(-1, 28, 28)]

    np.testing.assert_array_equal(labels(train.x) != train.y, is_wrong)
    np.testing.assert_array_equal(labels(valid.x), valid.y)
    assert train.y.min() >= 0 and train.y.max() <= 9
    np.testing.assert_allclose(train.x.mean(axis=0), 0, atol=1e-6)
    rows = {x.tobytes() for x in (*train.x, *valid.x)}
    assert len(rows) == 200  # no image is in both


def test_a_seed_is_its_own(digits):
    np.testing.assert_array_equal(cleaning(3).task.train.x, cleaning(3).task.train.x)
    assert not np.array_equal(cleaning(3).is_wrong, cleaning(4).is_wrong)


def test_detection_counts_pairs():
    theta = np.array([0.0, 1.0, 1.0, 2.0, -1.0])
    is_wrong = np.array([True, True, False, False, False])
    pairs = [(w, r) for w in theta[is_wrong] for r in theta[~is_wrong]]
    counted = np.mean([(w < r) + 0.5 * (w == r) for w, r in pairs])
    assert detection(theta, is_wrong) == pytest.approx(counted, rel=1e-12)
    assert detection(-1.0 * is_wrong, is_wrong) == 1
    assert detection(1.0 * is_wrong, is_wrong) == 0


def test_the_contrast_with_a_small_nudge_is_the_gradient_of_converged_learning(digits):
    task = cleaning(0).task
    theta = jax.random.normal(jax.random.key(0), (120,))
    learner, solver = problem(1.0), mc.lbfgs(1e-9, 200)
    rule = replace(estimator(METHODS["cml"]), beta=1e-3, nudged=solver)
    exact, contrast = (
        meta_grad(learner, solver, rule, theta, task) for rule in (mc.Implicit("cg", 1000), rule)
    )
    # The forward difference errs by O(beta), here with a factor of about one.
    np.testing.assert_allclose(contrast, exact, atol=1e-2 * jnp.abs(exact).max())


def test_runs_tell_wrong_labels_and_leave_their_results(digits, start, tmp_path, capsys):
    run = lambda method: start(
        hypercleaning, "--method", method, "--out", tmp_path / method, *WORDS
    )
    methods = ("cml", "uniform", "valid")
    assert [run(method) for method in methods] == [0, 0, 0]
    results = {name: json.loads((tmp_path / name / "result.json").read_text()) for name in methods}
    # Of test images alone, of which there are fewer than of others.
    assert [result["n_tasks"] for result in results.values()] == [50, 50, 50]
    assert results["cml"]["auc"] > 0.95
    assert results["cml"]["value"] > results["uniform"]["value"]
    assert results["valid"]["value"] == results["valid"]["with_valid"]
    assert results["uniform"]["auc"] is None and results["uniform"]["meta_steps"] == 0
    assert (tmp_path / "cml" / "weights.png").stat().st_size > 0
    assert "AUC" in capsys.readouterr().out


def test_test_images_are_of_the_test_half_and_lack_the_mean_of_others(digits):
    x, y = hypercleaning.others("test", np.full(784, 0.25))
    pixels = np.rint((np.asarray(x) + 0.25) * 255).reshape(-1, 28, 28)
    np.testing.assert_array_equal(pixels, digits["x_test"])
    np.testing.assert_array_equal(y, digits["y_test"])


def test_more_images_than_there_are_end_in_one_line(digits, start, tmp_path, capsys):
    words = ("--images", 300, "--valid-images", 101, "--out", tmp_path / "run")
    assert start(hypercleaning, *words) == 2
    error = capsys.readouterr().err
    assert "images, valid_images: 401 are asked for" in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(not MNIST.is_file(), reason="METACONTRAST_DATA has no mnist.npz")
def test_on_real_digits_a_few_meta_steps_tell_wrong_labels():
    s = replace(METHODS["cml"], images=500, valid_images=500)
    task, is_wrong, _ = images(s)
    theta, solver = jnp.zeros(500), mc.lbfgs(s.tol, s.free)
    rule = mc.meta_gradient(problem(1e-2), solver, estimator(s), by_z=False)
    for _ in range(3):
        theta = theta - jnp.sign(rule(theta, task).by_theta)
    assert detection(theta, is_wrong) > 0.8
