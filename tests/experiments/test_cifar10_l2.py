"""The learned regulariser against the best number: at toy size, from its command."""

import json
from dataclasses import replace

import _cifar10
import cifar10_l2 as l2
import jax
import jax.numpy as jnp
import numpy as np
import photographs
import pytest
from cifar10_l2 import METHODS

import metacontrast as mc
from metacontrast.nets import lenet5
from metacontrast.report import figure
from metacontrast.train import read_metrics

SMALL = dict(
    images=20, valid_images=30, free=30, batch=5, valid_batch=10, nudged=3, nudged_batch=10
)
WORDS = [word for name, n in SMALL.items() for word in (f"--{name.replace('_', '-')}", n)]
S = replace(METHODS["weight"], **SMALL)
GRID = replace(METHODS["grid"], **SMALL)


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A linear learner, caches of 60 and 20 images."""
    for part, n in (("train", 60), ("test", 20)):
        photographs.save(tmp_path, part, n, seed=n)
    monkeypatch.setenv("METACONTRAST_DATA", str(tmp_path))
    monkeypatch.setattr(_cifar10, "NET", photographs.NET)
    monkeypatch.setattr(l2, "figure", lambda *args: None)  # one layer, where LeNet-5 has five


def test_halves_share_no_image_but_their_statistics(small):
    photos = l2.photographs(S)
    test = l2.others("test", photos.statistics)
    assert [len(part.y) for part in (photos.learned, photos.valid, test)] == [20, 30, 20]
    both = np.concatenate([photos.learned.x, photos.valid.x])
    assert len({x.tobytes() for x in both}) == 50
    np.testing.assert_allclose(both.mean((0, 1, 2)), 0, atol=1e-3)  # sums in float32
    # Those of the test images are not theirs.
    assert np.abs(np.mean(test.x, (0, 1, 2))).max() > 1e-3


def test_too_few_images_are_refused(small):
    with pytest.raises(ValueError, match=r"images: 70 are .* metacontrast data fetch cifar10"):
        l2.photographs(replace(S, valid_images=50))


def test_theta_has_a_lambda_a_weight_or_a_leaf(monkeypatch):
    phi = {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}
    monkeypatch.setattr(l2, "start", lambda seed: phi)
    one, few = (l2.log_lambdas(METHODS[name], 0.1) for name in ("weight", "layer"))
    assert jax.tree.map(jnp.shape, one) == {"w": (3, 2), "b": (2,)}
    assert jax.tree.map(jnp.shape, few) == {"w": (), "b": ()}
    penalties = [mc.Synapse(log_lam=theta).pull(phi) for theta in (one, few)]
    np.testing.assert_allclose(penalties, 0.8, rtol=1e-6)


def test_whoever_learns_does_so_on_the_same_batches_whatever_those_of_nudged_phases(small):
    photos = l2.photographs(S)
    learn, task = l2.learner(S, photos), l2.few(S, photos)
    problem, solver, _ = l2.meta_learner(S, learn, photos.learned)
    theta = l2.log_lambdas(S, 1e-4)
    again = mc.solve_inner(problem, solver, theta, task, jax.random.key(7)).phi
    np.testing.assert_array_equal(again["matrix"], learn(theta)["matrix"])
    assert len(problem.sample(task, jax.random.key(0)).train.y) == S.nudged_batch
    # The learner of another seed starts elsewhere.
    other = problem.init(theta, task)["matrix"] - _cifar10.start(1)["matrix"]
    assert jnp.abs(other).max() > 1e-3


def test_with_both_the_validation_images_are_learned_from_too(small, monkeypatch):
    photos, several = l2.photographs(S), []
    monkeypatch.setattr(l2, "problem", lambda s, learned, batch: several.append(learned))
    l2.learner(S, photos, both=True)
    (data,) = several
    np.testing.assert_array_equal(data.x, np.concatenate([photos.learned.x, photos.valid.x]))
    np.testing.assert_array_equal(data.y, np.concatenate([photos.learned.y, photos.valid.y]))


def test_lambda_holds_the_learner_back(small):
    photos = l2.photographs(S)
    learn = l2.learner(S, photos)
    strong, none = (learn(l2.log_lambdas(S, lam)) for lam in (10.0, 0.0))
    assert jnp.linalg.norm(strong["matrix"]) < 0.1 * jnp.linalg.norm(none["matrix"])
    loss = lambda phi: float(l2.scores(phi, photos.learned)[0].mean())
    assert loss(none) < loss(_cifar10.start(0)) and loss(none) < loss(strong)


@pytest.fixture
def run(small, start, monkeypatch, tmp_path):
    """`run(method, *words)`: the result of a short run whose test images are not numbers."""
    test = l2.others("test", l2.photographs(S).statistics)
    test = test._replace(x=jnp.full_like(test.x, jnp.nan))
    monkeypatch.setattr(l2, "others", lambda part, statistics: test)

    def called(method, *words):
        grid = ["--grid", 0.0, *((0.01, 10.0) if method != "none" else ())]
        steps = ["--steps", 2] if method in ("weight", "layer") else []
        words = ["--method", method, "--out", tmp_path / "run", *WORDS, *grid, *steps, *words]
        assert start(l2, *words) == 0
        return json.loads((tmp_path / "run" / "result.json").read_text())

    return called


@pytest.mark.parametrize("method", METHODS)
def test_every_method_chooses_by_validation_images_alone(method, run, tmp_path):
    # So strong a lambda that less of it is better from the first meta-step on.
    strong = ["--first-lambda", 1.0] if method in ("weight", "layer") else []
    result = run(method, *strong)
    # What is not a number is taken for the first class, as a tenth of the images are.
    assert (result["n_tasks"], result["value"]) == (20, 10)
    assert result["valid_accuracy"] > 10
    lambdas = result["log10_lambda"]["['matrix']"]
    if method in ("weight", "layer"):
        (line,) = read_metrics(tmp_path / "run")
        assert line["diverged"] == 0 and line["meta_loss"] > 0
        assert line["valid_accuracy"] == pytest.approx(result["valid_accuracy"])
        # Learned: off where it started, each weight its own.
        assert min(abs(x) for x in lambdas) > 1e-3
        assert (lambdas[0] != lambdas[2]) is (method == "weight")
        return
    accuracies = json.loads((tmp_path / "run" / "grid.json").read_text())
    best = max(accuracies, key=accuracies.get)
    np.testing.assert_allclose(lambdas, np.log10(max(float(best), 1e-12)), rtol=1e-6)
    assert len(accuracies) == (1 if method == "none" else 3)
    if method != "grid-both":
        assert accuracies[best] == pytest.approx(result["valid_accuracy"])


def test_a_grid_that_stopped_goes_on_with_what_is_left(run, tmp_path, capsys):
    result, path = run("grid"), tmp_path / "run" / "grid.json"
    accuracies = json.loads(path.read_text())
    del accuracies["0.01"]
    path.write_text(json.dumps(accuracies))
    capsys.readouterr()
    assert run("grid", "--resume")["value"] == result["value"]
    assert capsys.readouterr().out.count("of validation images") == 1
    assert json.loads(path.read_text()).keys() == {"0.0", "0.01", "10.0"}


def test_the_figure_shows_the_five_layers(tmp_path):
    shapes = jax.eval_shape(lenet5().init, jax.random.key(0))
    theta = jax.tree.map(lambda leaf: np.zeros(leaf.shape), shapes)
    figure(tmp_path / "lambda", lambda axes: l2.draw(theta, axes), 1, 5)
    assert (tmp_path / "lambda.png").stat().st_size > 0
