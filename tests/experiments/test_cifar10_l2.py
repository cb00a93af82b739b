"""The learned regulariser against the best number: at toy size, from its command."""

import json
from dataclasses import replace

import _cifar10
import _l2_learner as learner
import cifar10_l2 as l2
import jax
import jax.numpy as jnp
import numpy as np
import photographs
import pytest
from _l2_methods import LEARNED, METHODS, cost
from cifar10_overfit import cosine
from jax.flatten_util import ravel_pytree

import metacontrast as mc
from metacontrast.accuracy import compare
from metacontrast.nets import lenet5
from metacontrast.report import figure
from metacontrast.train import read_metrics

SMALL = dict(
    images=20, valid_images=30, free=30, batch=5, valid_batch=10, nudged=3, nudged_batch=10,
    products=2, product_batch=10,
)  # fmt: skip
WORDS = [word for name, n in SMALL.items() for word in (f"--{name.replace('_', '-')}", n)]
S = replace(METHODS["contrastive-anchored"], **SMALL)
# Learning from one image, which every batch then is, converges; and so does a nudge by one.
ONE = dict(
    images=1, valid_images=1, free=300, batch=1, valid_batch=1, nudged=300, nudged_batch=1,
    nudged_rate=0.1, rate=0.1, products=300, product_batch=1, first_lambda=0.1, damping=0.0,
    beta=1e-4, series_rate=0.1,
)  # fmt: skip


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


def test_theta_has_a_lambda_a_weight_or_a_layer(monkeypatch):
    phi = [{"w": jnp.ones((3, 2)), "b": jnp.ones(2)}, {"w": jnp.ones((2, 1)), "b": jnp.ones(1)}]
    monkeypatch.setattr(learner, "start", lambda seed: phi)
    one, few = (l2.log_lambdas(METHODS[name], 0.1) for name in ("cg", "layer"))
    assert jax.tree.map(jnp.shape, one) == jax.tree.map(jnp.shape, phi)
    assert jax.tree.map(jnp.shape, few) == [(), ()]
    np.testing.assert_allclose([learner.pull(phi, theta) for theta in (one, few)], 1.1, rtol=1e-6)


def test_whoever_learns_does_so_on_the_same_batches_whatever_those_of_nudged_phases(small):
    photos = l2.photographs(S)
    learn, solver = l2.learning(S, photos.learned, 0), l2.in_order(S, photos.learned, 0)
    problem = l2.problem(0, l2.batches(photos.learned, S.nudged_batch))
    theta, task = l2.log_lambdas(S, 1e-4), l2.sample_task(S, photos, jax.random.key(3))
    again = mc.solve_inner(problem, solver, theta, task, jax.random.key(7)).phi
    np.testing.assert_allclose(again["matrix"], learn(theta)["matrix"], rtol=1e-5)
    assert len(problem.sample(task, jax.random.key(0)).train.y) == S.nudged_batch
    # That of another seed starts elsewhere and, from the same start, sees other batches.
    other = l2.problem(1, problem.sample).init(theta, task)["matrix"] - _cifar10.start(0)["matrix"]
    assert jnp.abs(other).max() > 1e-3
    away = mc.solve_inner(problem, replace(solver, order=1), theta, task).phi["matrix"]
    assert jnp.abs(away - again["matrix"]).max() > 1e-3


def first_gradient(s, photos):
    """By all log lambdas, as the first meta-step takes it."""
    problem = l2.problem(s.seed, l2.batches(photos.learned, s.nudged_batch))
    gradient = mc.meta_gradient(
        problem, l2.in_order(s, photos.learned, s.seed), l2.estimator(s), by_z=False
    )
    task, theta = l2.sample_task(s, photos, jax.random.key(0)), l2.log_lambdas(s, s.first_lambda)
    return ravel_pytree(jax.jit(gradient)(theta, task, jax.random.key(1)).by_theta)[0]


@pytest.mark.thorough
def test_where_learning_converges_all_that_is_exact_there_is_one_gradient(small):
    methods = {name: replace(METHODS[name], **ONE) for name in METHODS if name in LEARNED}
    photos = l2.photographs(methods["cg"])
    exact = first_gradient(methods["trajectory"], photos)
    assert jnp.abs(exact).max() > 1e-3
    near = dict(atol=0.03 * float(jnp.abs(exact).max()))
    for name in ("cg", "neumann", "tbptt", "contrastive-plain"):
        np.testing.assert_allclose(first_gradient(methods[name], photos), exact, **near)
    anchored = first_gradient(methods["contrastive-anchored"], photos)
    np.testing.assert_allclose(anchored, exact, **near)
    assert 0 < cosine(first_gradient(methods["t1t2"], photos), exact) < 0.999
    # One lambda of all weights is moved by what moves theirs.
    layer = first_gradient(methods["layer"], photos)
    np.testing.assert_allclose(layer, [anchored.sum()], rtol=1e-6)


def test_all_methods_have_one_budget():
    budgets = {name: s.steps * cost(s) for name, s in LEARNED.items()}
    for name, s in LEARNED.items():
        assert 0 <= max(budgets.values()) - budgets[name] < cost(s), name


# Of those that are alike one; what `Trajectory` tries before it starts are eight.
COUNTED = {"contrastive-anchored": 0, "contrastive-plain": 0, "trajectory": 8, "cg": 0, "tbptt": 0}


@pytest.mark.thorough
def test_a_meta_step_costs_what_is_counted(small):
    alike = SMALL | {"nudged_batch": 5, "product_batch": 5}
    methods = {name: replace(METHODS[name], **alike) for name in COUNTED}
    photos = l2.photographs(S)
    counts = compare(
        {name: l2.estimator(s) for name, s in methods.items()},
        l2.problem(0, l2.batches(photos.learned, 5)),
        l2.in_order(S, photos.learned, 0),
        l2.log_lambdas(S, 0.1),
        l2.sample_task(S, photos, jax.random.key(0)),
        exact=l2.log_lambdas(S, 0.1),  # of which only the shape matters here
        key=jax.random.key(0),
        repeats=1,
    )
    for r in counts:
        # Those of the outer nudge are not the inner loss's.
        of_nudge = S.nudged if r.name == "contrastive-plain" else 0
        images = 5 * (r.gradients + 2 * r.products + of_nudge - COUNTED[r.name])
        assert images == cost(methods[r.name]), r.name


def test_lambda_holds_the_learner_back(small):
    photos = l2.photographs(S)
    learn = l2.learning(S, photos.learned, 0)
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
        steps = ["--steps", 2] if method in LEARNED else []
        words = ["--method", method, "--out", tmp_path / "run", *WORDS, *grid, *steps, *words]
        assert start(l2, *words) == 0
        return json.loads((tmp_path / "run" / "result.json").read_text())

    return called


FEW = ("contrastive-anchored", "layer", "grid", "none")
EACH = [m if m in FEW else pytest.param(m, marks=pytest.mark.thorough) for m in METHODS]


@pytest.mark.parametrize("method", EACH)
def test_every_method_chooses_by_validation_images_alone(method, run, tmp_path):
    # So strong a lambda that less of it is better from the first meta-step on.
    strong = ["--first-lambda", 1.0] if method in LEARNED else []
    result = run(method, *strong)
    # What is not a number is taken for the first class, as a tenth of the images are.
    assert (result["n_tasks"], result["value"]) == (20, 10)
    assert (result["new_accuracy"], result["both_accuracy"]) == (10, 10)
    assert result["valid_accuracy"] > 10
    (lambdas, *_) = result["log10_lambda"].values()
    if method in LEARNED:
        lines = read_metrics(tmp_path / "run")
        assert all(line["diverged"] == 0 and line["meta_loss"] > 0 for line in lines)
        best = min(lines, key=lambda line: line["valid_loss"])
        assert best["valid_accuracy"] == pytest.approx(result["valid_accuracy"])
        # Learned: off where it started, each weight its own.
        assert min(abs(x) for x in lambdas) > 1e-3
        assert (lambdas[0] != lambdas[2]) is (method != "layer")
        return
    scores = json.loads((tmp_path / "run" / "grid.json").read_text())
    best = min(scores, key=lambda lam: scores[lam]["loss"])
    np.testing.assert_allclose(lambdas, np.log10(max(float(best), 1e-12)), rtol=1e-6)
    assert len(scores) == (1 if method == "none" else 3)
    assert scores[best]["accuracy"] == pytest.approx(result["valid_accuracy"])


def test_a_regulariser_is_judged_on_what_it_was_not_learned_on(small, monkeypatch):
    photos, several = l2.photographs(S), []

    def learning(s, learned, seed):
        several.append((learned, seed))
        return lambda theta: _cifar10.start(seed)

    monkeypatch.setattr(l2, "learning", learning)
    found = l2.judged(
        S, learning(S, photos.learned, 0), photos, None, l2.others("test", photos.statistics)
    )
    assert {name: jnp.shape(x) for name, x in found.items() if name in ("same", "new", "both")} == (
        dict.fromkeys(("same", "new", "both"), (20,))
    )
    (_, same), (new, elsewhere), (both, again) = several
    assert (same, again) == (0, 0) and elsewhere not in range(1000)
    np.testing.assert_array_equal(new.x, photos.learned.x)
    np.testing.assert_array_equal(both.x, np.concatenate([photos.learned.x, photos.valid.x]))
    np.testing.assert_array_equal(both.y, np.concatenate([photos.learned.y, photos.valid.y]))


def test_a_grid_that_stopped_goes_on_with_what_is_left(run, tmp_path, capsys):
    result, path = run("grid"), tmp_path / "run" / "grid.json"
    scores = json.loads(path.read_text())
    del scores["0.01"]
    path.write_text(json.dumps(scores))
    capsys.readouterr()
    assert run("grid", "--resume")["value"] == result["value"]
    assert capsys.readouterr().out.count("validation loss") == 1
    assert json.loads(path.read_text()).keys() == {"0.0", "0.01", "10.0"}


def test_the_figure_shows_the_five_layers(tmp_path):
    shapes = jax.eval_shape(lenet5().init, jax.random.key(0))
    even = lambda leaf: np.log(10) * np.linspace(-2, 1, leaf.size).reshape(leaf.shape)
    theta = jax.tree.map(even, shapes)
    narrow = jax.tree.map(lambda leaf: leaf.astype(np.float32), theta)
    assert len(json.loads(json.dumps(l2.histograms(narrow)))) == 5  # of the type that runs have
    spread = l2.histograms(theta)
    assert [sum(of["counts"]) for of in spread] == [layer["w"].size for layer in shapes]
    of_layers = l2.histograms(l2.log_lambdas(l2.METHODS["layer"], 0.01))
    assert [max(of["counts"]) for of in of_layers] == [layer["w"].size for layer in shapes]
    # Evenly spread from the first bin to the last, in powers of ten.
    assert [(round(of["from"], 9), round(of["to"], 9)) for of in spread] == 5 * [(-2, 1)]
    assert max(spread[0]["counts"]) - min(spread[0]["counts"]) <= 1
    figure(tmp_path / "lambda", lambda axes: l2.draw(spread, axes), 1, 5)
    assert (tmp_path / "lambda.png").stat().st_size > 0
