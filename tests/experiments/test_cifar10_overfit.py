"""The stress test of meta-gradients: its estimators, and a run from its command."""

import json
from dataclasses import replace

import _cifar10
import cifar10_overfit as overfit
import jax
import jax.numpy as jnp
import numpy as np
import optax
import photographs
import pytest
from cifar10_overfit import METHODS, cosine, first_gradient

import metacontrast as mc

SMALL = dict(images=20, valid_images=30)


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A linear learner in place of LeNet-5, convex with its penalty; a cache of 60 images."""
    photographs.save(tmp_path, "train", 60, seed=0)
    monkeypatch.setenv("METACONTRAST_DATA", str(tmp_path))
    monkeypatch.setattr(_cifar10, "NET", photographs.NET)


def flat(tree):
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])


def test_images_are_normalised_and_in_one_half(small):
    train, test = overfit.halves(replace(METHODS["cg"], **SMALL))
    assert (train.x.shape, test.x.shape) == ((20, 32, 32, 3), (30, 32, 32, 3))
    both = np.concatenate([train.x, test.x])
    np.testing.assert_allclose(both.mean((0, 1, 2)), 0, atol=1e-3)  # sums in float32
    np.testing.assert_allclose(both.std((0, 1, 2)), 1, atol=1e-3)
    assert len({x.tobytes() for x in both}) == 50


@pytest.mark.parametrize("clipped", [pytest.param(False, marks=pytest.mark.thorough), True])
def test_the_linear_contrast_is_the_gradient_of_converged_learning(small, clipped):
    s = replace(METHODS["contrastive-linear"], clipped=clipped, seed=1, **SMALL)
    learner, theta, task = (
        overfit.problem(_cifar10.start(1), clipped),
        overfit.first_theta(s),
        overfit.halves(s),
    )
    solver = mc.lbfgs(1e-8, 300)
    nudged = mc.descend(optax.sgd(0.3, 0.9, nesterov=True), 600)
    rule = mc.Contrastive(1e-4, "symmetric", nudge="linear", nudged=nudged)
    contrast, implicit = (
        mc.meta_gradient(learner, solver, rule, by_z=False)(theta, task)
        for rule in (rule, mc.Implicit("exact"))
    )
    grad, exact = contrast.by_theta, implicit.by_theta
    assert float(contrast.value) == pytest.approx(float(implicit.value), rel=1e-9)
    assert jnp.abs(flat(exact)).max() > 1e-3
    # The curvature is above 2 lambda = 0.02: 600 steps of 0.3 with momentum converge, and what is
    # left, O(beta^2) and round-off over beta, is far below this.
    np.testing.assert_allclose(flat(grad), flat(exact), atol=1e-4 * jnp.abs(flat(exact)).max())


@pytest.mark.thorough
def test_cosines_are_one_for_what_is_exact(small):
    # All 100 steps: then truncated backpropagation leaves nothing out.
    methods = METHODS | {"tbptt": replace(METHODS["tbptt"], products=100)}
    s = replace(METHODS["cg"], **SMALL)
    exact = first_gradient(s, mc.Unrolled(remat=True))
    rules = {name: overfit.estimator(method) for name, method in methods.items()}
    assert [name for name, rule in rules.items() if rule is None] == ["none"]
    cosines = {name: cosine(first_gradient(s, rule), exact) for name, rule in rules.items() if rule}
    for name in ("tbptt", "trajectory"):
        assert cosines.pop(name) == pytest.approx(1, abs=1e-6)
    assert min(cosines.values()) > 0 and max(cosines.values()) < 0.9999


@pytest.mark.parametrize("clipped", [False, pytest.param(True, marks=pytest.mark.thorough)])
def test_a_run_lowers_the_validation_loss(small, clipped, start, tmp_path, monkeypatch):
    words = ["--steps", 10, "--images", 20, "--valid-images", 30]
    words += ["--clipped"] if clipped else []
    figures = []
    monkeypatch.setattr(overfit, "figure", lambda path, *rest: figures.append((path, *rest)))
    run = lambda method: start(
        overfit, "--method", method, "--out", tmp_path / method / "seed0", *words
    )
    assert [run(method) for method in ("none", "contrastive-linear")] == [0, 0]
    folder = tmp_path / "contrastive-linear" / "seed0"
    result = json.loads((folder / "result.json").read_text())
    assert [line["step"] for line in result["curve"]] == [0, 5, 10]
    assert result["value"] < result["first"]
    lowest = min(line["valid_loss"] for line in result["curve"])
    assert result["value"] == pytest.approx(lowest, rel=1e-6)
    assert 0 < result["cosine"] <= 1
    none = json.loads((tmp_path / "none" / "seed0" / "result.json").read_text())
    assert none["value"] == pytest.approx(none["first"]) and none["meta_steps"] == 0
    if not clipped:  # drawn once is enough
        monkeypatch.undo()
        overfit.figure(*figures[-1])
        assert (folder / "curves.png").stat().st_size > 0
