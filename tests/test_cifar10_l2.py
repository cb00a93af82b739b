"""The learned regulariser against the best number: at toy size, from the command line."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from archives import png
from command import command
from test_cifar10_overfit import small_apply, small_init

import metacontrast as mc
from metacontrast.experiments import _cifar10
from metacontrast.experiments import cifar10_l2 as l2
from metacontrast.nets import ConvNet
from metacontrast.tasks._import_images import packed


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A linear learner, caches of 60 and 20 images."""
    for part, n in (("train", 60), ("test", 20)):
        random = np.random.default_rng(n)
        pixels = random.integers(0, 256, (n, 32, 32, 3), np.uint8)
        labels = [i % 10 for i in range(n)]
        files = packed([png(x) for x in pixels], labels, list("abcdefghij"), [*map(str, range(n))])
        np.savez(tmp_path / f"cifar10_{part}.npz", **files)
    monkeypatch.setenv("METACONTRAST_DATA", str(tmp_path))
    for name, value in (("LEARNED", 20), ("VALID", 30), ("GRID", (0.0, 1e-2, 10.0))):
        monkeypatch.setattr(l2, name, value)
    net = ConvNet(small_init, small_apply, None)
    for module in (l2, _cifar10):
        monkeypatch.setattr(module, "NET", net)
    few = l2.Settings(steps=5, learned_steps=30, batch=5, shown=10, nudged_steps=3, nudged_batch=10)
    monkeypatch.setattr(l2, "Settings", lambda: few)
    # One layer, where LeNet-5 has five.
    draw = lambda theta, axes: axes[0, 0].hist(np.ravel(theta["matrix"]))
    monkeypatch.setattr(l2, "_draw", draw)


def test_halves_and_test_images_share_no_image_but_their_statistics(small):
    photos = l2.photographs(0)
    assert [len(part.y) for part in photos] == [20, 30, 20]
    both = np.concatenate([photos.learned.x, photos.valid.x])
    assert len({x.tobytes() for x in both}) == 50
    np.testing.assert_allclose(both.mean((0, 1, 2)), 0, atol=1e-3)  # sums in float32
    # Those of the test images are not theirs.
    assert np.abs(np.mean(photos.test.x, (0, 1, 2))).max() > 1e-3


def test_too_few_images_are_refused(small, monkeypatch):
    monkeypatch.setattr(l2, "VALID", 50)
    with pytest.raises(ValueError, match=r"data: 70 images .* metacontrast data fetch cifar10"):
        l2.photographs(0)


def test_theta_has_a_lambda_a_weight_or_a_leaf():
    start = {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}
    one, few = (l2.first_theta(name, start, 0.1) for name in ("weight", "layer"))
    assert jax.tree.map(jnp.shape, one) == {"w": (3, 2), "b": (2,)}
    assert jax.tree.map(jnp.shape, few) == {"w": (), "b": ()}
    penalties = [mc.attraction(start, log_lam=theta) for theta in (one, few)]
    np.testing.assert_allclose(penalties, 0.8, rtol=1e-6)


def test_whoever_learns_does_so_on_the_same_batches_whatever_those_of_nudged_phases(small):
    learner = l2.Learner(0, l2.Settings(), l2.photographs(0))
    theta = l2.first_theta("grid", learner.start, 0.0)
    others = (learner.problem, learner.solve, theta, learner.few, jax.random.key(7))
    again = mc.learn(*others).phi
    np.testing.assert_array_equal(again["matrix"], learner.learn(theta)["matrix"])
    z = learner.problem.sample(learner.few, jax.random.key(0))
    assert len(z.train.y) == l2.Settings().nudged_batch
    # The learner of another seed starts elsewhere.
    other = l2.Learner(1, l2.Settings(), l2.photographs(1))
    assert jnp.abs(other.start["matrix"] - learner.start["matrix"]).max() > 1e-3


def test_with_both_the_validation_images_are_learned_from_too(small, monkeypatch):
    seen = []
    monkeypatch.setattr(l2, "problem", lambda start, learned, batch: seen.append(learned))
    photos = l2.photographs(0)
    l2.Learner(0, l2.Settings(), photos, both=True)
    for data in seen:
        expected = np.concatenate([photos.learned.x, photos.valid.x])
        np.testing.assert_array_equal(data.x, expected)
        assert len(data.y) == 50
    assert len(seen) == 2


def test_lambda_holds_the_learner_back(small):
    learner = l2.Learner(0, l2.Settings(), l2.photographs(0))
    strong, none = (
        learner.learn(l2.first_theta("grid", learner.start, lam)) for lam in (10.0, 0.0)
    )
    assert jnp.linalg.norm(strong["matrix"]) < 0.1 * jnp.linalg.norm(none["matrix"])
    loss = lambda phi: float(l2.told(phi, learner.photos.learned)[0].mean())
    assert loss(none) < loss(learner.start) and loss(none) < loss(strong)


@pytest.mark.parametrize("method", l2.METHODS)
def test_every_method_runs_resumes_and_leaves_its_result(method, small, monkeypatch, tmp_path):
    words = ("run", "cifar10-l2", "--method", method, "--out", tmp_path / "run")
    assert command(monkeypatch, *words) == 0
    read = lambda: json.loads((tmp_path / "run" / "result.json").read_text())
    result = read()
    assert (result["n_tasks"], result["diverged"]) == (20, 0)
    lambdas = result["log10_lambda"]["['matrix']"]
    if method == "grid":
        found = json.loads((tmp_path / "run" / "grid.json").read_text())
        assert len(found) == 3 and max(found.values()) == pytest.approx(result["valid_accuracy"])
    elif method == "none":
        assert max(lambdas) < -11
    else:
        # Learned: off where it started, each weight its own.
        assert max(abs(x + 3) for x in lambdas) > 1e-3
        assert (lambdas[0] != lambdas[2]) is (method == "weight")
    assert command(monkeypatch, *words, "--resume") == 0
    assert read()["value"] == result["value"]
    assert command(monkeypatch, "table", "cifar10-l2", "--runs", tmp_path) == 0
