"""The stress test of meta-gradients: its estimators, and a run from the command line."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from archives import png
from command import command

import metacontrast as mc
from metacontrast.experiments import _cifar10
from metacontrast.experiments import cifar10_overfit as overfit
from metacontrast.nets import ConvNet
from metacontrast.tasks._import_images import packed


def small_init(key):
    return {"matrix": 0.3 * jax.random.normal(key, (12, 10))}


def small_apply(phi, x):
    coarse = x.reshape(len(x), 2, 16, 2, 16, 3).mean((2, 4)).reshape(len(x), 12)
    return 10 * coarse @ phi["matrix"]  # coarse pixels vary by about a tenth


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A linear learner in place of LeNet-5, convex with its penalty; a cache of 60 images."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (60, 32, 32, 3), np.uint8)
    labels = [i % 10 for i in range(60)]
    files = packed([png(x) for x in pixels], labels, list("abcdefghij"), [*map(str, range(60))])
    np.savez(tmp_path / "cifar10_train.npz", **files)
    monkeypatch.setenv("METACONTRAST_DATA", str(tmp_path))
    monkeypatch.setattr(overfit, "LEARNED", 20)
    monkeypatch.setattr(overfit, "HELD_OUT", 30)
    for module in (overfit, _cifar10):
        monkeypatch.setattr(module, "NET", ConvNet(small_init, small_apply, None))


def flat(tree):
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])


def test_images_are_normalised_and_in_one_half(small):
    train, test = overfit.images_of(0)
    assert (train.x.shape, test.x.shape) == ((20, 32, 32, 3), (30, 32, 32, 3))
    both = np.concatenate([train.x, test.x])
    np.testing.assert_allclose(both.mean((0, 1, 2)), 0, atol=1e-3)  # sums in float32
    np.testing.assert_allclose(both.std((0, 1, 2)), 1, atol=1e-3)
    assert len({x.tobytes() for x in both}) == 50


@pytest.mark.parametrize("clipped", [False, True])
def test_the_linear_contrast_is_the_gradient_of_converged_learning(small, clipped):
    start = small_init(jax.random.key(1))
    learner = overfit.problem(start, clipped)
    first = 0.01 if clipped else jnp.log(0.01)
    theta = jax.tree.map(lambda leaf: jnp.full(leaf.shape, first), start)
    task = overfit.images_of(0)
    solve = mc.lbfgs(1e-8, 300)
    rule = mc.LinearNudge(1e-4, nudged=mc.descend(optax.sgd(0.3, 0.9, nesterov=True), 600))
    (value, _), grad = rule.value_and_grad(learner, solve, theta, task)
    (same, _), exact = mc.Implicit("exact").value_and_grad(learner, solve, theta, task)
    assert float(value) == pytest.approx(float(same), rel=1e-9)
    assert jnp.abs(flat(exact)).max() > 1e-3
    # The curvature is above 2 lambda = 0.02: 600 steps of 0.3 with momentum converge, and what is
    # left, O(beta^2) and round-off over beta, is far below this.
    np.testing.assert_allclose(flat(grad), flat(exact), atol=1e-4 * jnp.abs(flat(exact)).max())


def test_cosines_are_one_for_what_is_exact(small, monkeypatch):
    # All 100 steps: then truncated backpropagation leaves nothing out.
    monkeypatch.setitem(overfit.METHODS, "tbptt", overfit.Method(mc.Unrolled()))
    found = overfit.cosines(0)
    assert found.keys() == overfit.METHODS.keys() - {"none"}
    assert found["tbptt"] == pytest.approx(1, abs=1e-6)
    others = [cosine for name, cosine in found.items() if name != "tbptt"]
    assert min(others) > 0 and max(others) < 0.9999


@pytest.mark.parametrize("clipped", [False, True])
def test_a_run_lowers_the_validation_loss_and_resumes(small, clipped, monkeypatch, tmp_path):
    words = ["--steps", 10, *(["--clipped"] if clipped else [])]
    run = lambda method, *more: command(
        monkeypatch, "run", "cifar10-overfit", "--method", method,
        "--out", tmp_path / method / "seed0", *words, *more,
    )  # fmt: skip
    assert [run(method) for method in ("contrastive-linear", "none")] == [0, 0]
    folder = tmp_path / "contrastive-linear" / "seed0"
    result = json.loads((folder / "result.json").read_text())
    assert [line["step"] for line in result["curve"]] == [0, 5, 10]
    assert result["value"] < result["first"]
    lowest = min(line["valid_loss"] for line in result["curve"])
    assert result["value"] == pytest.approx(lowest, rel=1e-6)
    assert 0 < result["cosine"] <= 1
    assert (folder / "curves.png").stat().st_size > 0
    assert run("contrastive-linear", "--resume") == 0
    assert json.loads((folder / "result.json").read_text())["value"] == result["value"]
