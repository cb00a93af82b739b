"""Few-shot experiments at toy size: every method runs, and nothing leaks."""

import json
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command import command
from problems import EPS, relative_error

from metacontrast import Data, Task, learn
from metacontrast.experiments import _few_shot, _few_shot_learners, miniimagenet, omniglot
from metacontrast.experiments._few_shot_head import _features, _folds
from metacontrast.experiments._few_shot_methods import METHODS, for_omniglot, learner
from metacontrast.nets import conv4
from metacontrast.tasks import Images, distorted, episodes
from metacontrast.train import meta_train

WAY, SIZE = 3, 16
SMALL = dict(
    steps=2, tasks=2, queries=2, size=SIZE, filters=(2, 2, 2, 2), train_way=WAY, inner_steps=3,
    nudged_steps=2, views=1,
)  # fmt: skip


def images(part, channels=1):
    """Six classes of noisy copies of one image each, other ones in each part."""
    rng = np.random.default_rng(["train", "valid", "test"].index(part))
    shape = (6, 20, SIZE, SIZE, channels)
    pixels = 180 * rng.random((6, 1, *shape[2:])) + 60 * rng.random(shape)
    return Images(pixels.astype(np.uint8), tuple(f"{part}{i}" for i in range(6)))


@pytest.fixture(autouse=True)
def few_tasks(monkeypatch):
    # XLA's own convolutions compile faster, and tasks of one shape compile once.
    lax = lambda *args, **kwargs: conv4(*args, **kwargs | {"lowering": "lax"})
    monkeypatch.setattr(_few_shot_learners, "conv4", lax)
    for name in ("TEST_TASKS", "VALID_TASKS", "TEST_QUERIES", "VALID_QUERIES", "AT_A_TIME"):
        monkeypatch.setattr(_few_shot, name, 4)


def cell(method, **changed):
    chosen = replace(for_omniglot(method, 5, 1), **(SMALL | changed))
    made = learner(method, WAY, 1, chosen)
    return _few_shot.Cell("toy", method, images, (True, True), WAY, 1, made, chosen)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_and_leaves_its_result(method, tmp_path, monkeypatch):
    out = tmp_path / "run"
    drawn = method in ("cml-head", "cml-mod")
    if not drawn:
        monkeypatch.setattr(_few_shot, "figure", lambda *_: None)
    result = _few_shot.run(cell(method), method, 0, out, resume=False)
    assert result == json.loads((out / "result.json").read_text())
    assert (result["n_tasks"], result["diverged"], result["meta_steps"]) == (4, 0, 2)
    assert 0 < result["value"] <= 100
    assert result["transductive"] is (method != "cml-head")
    assert (
        {"episode.png", "learning.png", "filters.png"} <= {path.name for path in out.iterdir()}
    ) is drawn


def test_test_classes_are_looked_at_only_after_all_choices(tmp_path, monkeypatch):
    asked = []

    def spied(part):
        asked.append(part)
        return images(part)

    def trained(*args, **kwargs):
        done = meta_train(*args, **kwargs)
        asked.append("trained")
        return done

    monkeypatch.setattr(_few_shot, "meta_train", trained)
    monkeypatch.setattr(_few_shot, "figure", lambda *_: None)
    spy = replace(cell("cml-head"), images=spied)
    _few_shot.run(spy, "cml-head", 0, tmp_path / "run", resume=False)
    chosen = asked.index("trained")
    assert "valid" in asked[:chosen] and "test" not in asked[:chosen]
    assert "test" in asked[chosen:] and "valid" not in asked[chosen:]


def test_a_resumed_run_is_the_run_that_was_not_stopped(tmp_path):
    run = partial(_few_shot.run, cell("cml-head"), "cml-head", 0)
    whole = run(tmp_path / "run", resume=False)
    again = run(tmp_path / "run", resume=True)
    assert again["value"] == whole["value"]


def verdicts(method, queries):
    """Logits of the first queries of a task, after judging it with all of them or with few."""
    made = cell(method).learner
    draw = episodes(images("test"), WAY, 1, 4)
    task = draw(jax.random.key(0))
    task = task._replace(test=jax.tree.map(lambda leaf: leaf[:queries], task.test))
    theta = made.prepared(made.first(jax.random.key(1)), jnp.ones((5, SIZE, SIZE, 1)) * 0.5)
    phi = made.judge.init(theta, task) + 1.0 if method == "cml-head" else theta
    return made.logits(phi, theta, task)[:2]


def test_the_head_judges_each_query_by_itself_and_the_published_learners_do_not():
    # Sums of tens of products of order one.
    assert relative_error(verdicts("cml-head", 2), verdicts("cml-head", 12)) < 1e4 * EPS
    assert relative_error(verdicts("cml-syn", 2), verdicts("cml-syn", 12)) > 1e-3


def test_views_are_averaged():
    net = conv4((2, 2, 2, 2), strided=True, size=SIZE, lowering="lax")
    body = net.init(jax.random.key(0))
    task = episodes(images("test"), WAY, 1, 4)(jax.random.key(0))
    stats = net.statistics(body, task.test.x)
    plain, seen = (_features(net, body, stats, None, task, views) for views in (0, 2))
    each = [
        net.apply(body, jnp.concatenate([distorted(key, x[None]) for x in task.test.x]), stats)
        for key in jax.random.split(jax.random.key(0), 2)
    ]
    mean = (plain.test.x + sum(each) / np.sqrt(each[0].shape[1])) / 3
    assert relative_error(seen.test.x, mean) < 1e3 * EPS
    assert relative_error(seen.test.x, plain.test.x) > 1e-3


def test_features_of_length_one_are_centred_by_training_images_and_then_by_no_query():
    settings = cell("cml-head", unit=True).settings
    made = learner("cml-head", WAY, 1, settings)
    task = episodes(images("test"), WAY, 1, 4)(jax.random.key(0))
    references = jax.random.uniform(jax.random.key(2), (5, SIZE, SIZE, 1))
    theta = made.prepared(made.first(jax.random.key(1)), references)
    f = made.judge.encoded(theta, task)
    for half in f:
        assert relative_error(jnp.linalg.norm(half.x, axis=1), jnp.ones(len(half.y))) < 1e-3
    few = task._replace(test=jax.tree.map(lambda leaf: leaf[:2], task.test))
    alone = made.judge.encoded(theta, few).test.x
    assert relative_error(alone, f.test.x[:2]) < 1e4 * EPS
    body = theta.body[0]
    net = _few_shot_learners.network(settings)
    assert relative_error(theta.body[2], jnp.mean(net.apply(body, references), 0)) < 1e4 * EPS


def test_fast_weights_are_judged_on_distorted_copies_too_and_learn_from_them():
    made = cell("cml-syn").learner  # with one further view
    theta = made.first(jax.random.key(0))
    task = episodes(images("test"), WAY, 2, 3)(jax.random.key(1))
    (key,) = jax.random.split(jax.random.key(0), 1)
    moved = lambda x: jnp.concatenate([distorted(key, image[None]) for image in x])
    judged = made.judge.encoded(theta, task)
    np.testing.assert_array_equal(judged.train.y, np.tile(task.train.y, 2))
    np.testing.assert_array_equal(judged.test.x, task.test.x)
    copied = jnp.concatenate([task.train.x, moved(task.train.x)])
    assert relative_error(judged.train.x, copied) < 1e3 * EPS
    net = _few_shot_learners.network(cell("cml-syn").settings, WAY)
    told = lambda x: jax.nn.log_softmax(net.apply(theta, x))
    mean = (told(task.test.x) + told(moved(task.test.x))) / 2
    assert relative_error(made.logits(theta, theta, task), mean) < 1e4 * EPS
    assert relative_error(told(task.test.x), mean) > 1e-3


def test_anil_adapts_the_head_alone():
    made = cell("anil").learner
    theta = made.first(jax.random.key(0))
    task = episodes(images("train"), WAY, 1, 2)(jax.random.key(1))
    phi = learn(made.train, made.solve, theta, task).phi
    assert jax.tree.map(jnp.shape, phi) == jax.tree.map(jnp.shape, theta["head"])
    assert not np.array_equal(phi["w"], theta["head"]["w"])
    _, grad = made.estimator.value_and_grad(made.train, made.solve, theta, task)
    assert all(jnp.any(leaf != 0) for leaf in jax.tree.leaves(grad["body"][0]["w"]))


@pytest.mark.parametrize(("shot", "query"), [(1, 3), (2, 2)])
def test_folds_use_every_example_once_to_learn_from_and_otherwise_to_be_judged(shot, query):
    number = lambda n, first: jnp.arange(n)[:, None] + first  # an example's features: its number
    classes = lambda each: jnp.repeat(jnp.arange(WAY), each)
    task = Task(
        Data(number(WAY * shot, 0), classes(shot)), Data(number(WAY * query, 100), classes(query))
    )
    true_class = dict(
        zip(
            np.concatenate([task.train.x, task.test.x]).ravel().tolist(),
            np.concatenate([task.train.y, task.test.y]).tolist(),
            strict=True,
        )
    )
    folds = _folds(task, shot)
    assert len(folds.train.y) == (shot + query) // shot
    np.testing.assert_array_equal(folds.train.x[0], task.train.x)
    learned = np.sort(folds.train.x.ravel())
    np.testing.assert_array_equal(learned, np.sort(list(true_class)))
    for k in range(len(folds.train.y)):
        seen = np.concatenate([folds.train.x[k], folds.test.x[k]]).ravel()
        np.testing.assert_array_equal(np.sort(seen), np.sort(list(true_class)))
        labels = np.concatenate([folds.train.y[k], folds.test.y[k]])
        assert labels.tolist() == [true_class[i] for i in seen.tolist()]


def test_modulation_leaves_the_convolutions_slow():
    made = cell("cml-mod").learner
    theta = made.first(jax.random.key(0))
    phi = made.train.init(theta, None)
    assert [gain.shape for gain in phi.gain] == [(2,)] * 4
    assert sorted(phi.head) == ["b", "w"]


def test_published_settings_are_kept():
    chosen = for_omniglot("cml-syn", 20, 1, published=True)
    # Weight decay 0.5 with a factor 1/2 is lambda = 0.25 without.
    assert (chosen.beta, chosen.pull, chosen.tasks, chosen.steps) == (0.03, 0.25, 16, 3750)
    assert (chosen.inner_steps, chosen.nudged_steps, chosen.inner_rate) == (200, 100, 0.01)
    mini = miniimagenet.settings("cml-syn", 5, 1, published=True)
    assert (mini.beta, mini.inner_steps, mini.nudged_steps, mini.steps) == (0.01, 100, 75, 25_000)
    assert (mini.size, mini.channels, mini.outer_rate, mini.tasks) == (84, 3, 1e-3, 4)


@pytest.mark.parametrize(("experiment", "channels"), [(omniglot, 1), (miniimagenet, 3)])
def test_both_run_from_the_command_line(experiment, channels, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(experiment, experiment.NAME, lambda part, **_: images(part, channels))
    small = replace(for_omniglot("cml-head", WAY, 1), **(SMALL | {"channels": channels}))
    name = "for_omniglot" if experiment is omniglot else "settings"
    monkeypatch.setattr(experiment, name, lambda *_: small)
    words = ("run", experiment.NAME, "--way", WAY, "--out", tmp_path / "run", "--steps", 1)
    assert command(monkeypatch, *words) == 0
    assert "cml-head" in capsys.readouterr().out
    assert command(monkeypatch, "table", experiment.NAME, "--runs", tmp_path) == 0


def test_a_quick_run_says_on_how_few_tasks_it_was_tested(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(_few_shot, "QUICK_TEST_TASKS", 3)
    monkeypatch.setattr(omniglot, "omniglot", lambda part, **_: images(part))
    small = replace(for_omniglot("cml-head", WAY, 1), **(SMALL | {"steps": 100}))
    monkeypatch.setattr(omniglot, "for_omniglot", lambda *_: small)
    monkeypatch.setattr(_few_shot, "figure", lambda *_: None)
    words = ("run", "omniglot", "--way", WAY, "--quick", "--out", tmp_path)
    assert command(monkeypatch, *words) == 0
    assert "on 3 tasks of test classes" in capsys.readouterr().out
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["n_tasks"], result["meta_steps"]) == (3, 1)
    assert json.loads((tmp_path / "config.json").read_text())["views"] == 0


def test_what_cannot_be_run_is_refused(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert command(monkeypatch, "run", "omniglot", "--published") == 2
    assert "published: cml-head is ours alone" in capsys.readouterr().err
    assert command(monkeypatch, "run", "omniglot", "--method", "nonsense") == 2
    assert "method: unknown 'nonsense'; choose one of cml-head" in capsys.readouterr().err
