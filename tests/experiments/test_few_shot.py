"""Few-shot experiments at toy size: every method runs, and nothing leaks."""

import json
from dataclasses import replace

import _few_shot
import _few_shot_learners
import jax
import jax.numpy as jnp
import miniimagenet
import numpy as np
import omniglot
import optax
import pytest
from _few_shot_learners import folds, learner, network
from problems import EPS, relative_error

from metacontrast import Data, Task, meta_gradient, solve_inner
from metacontrast.nets._conv_net import Layer, stacked
from metacontrast.report import print_report
from metacontrast.tasks import Images, distorted, episodes

WAY, SIZE = 3, 8
METHODS = omniglot.METHODS
# Held-out tasks of either kind have one shape, and compile once.
SMALL = dict(
    way=WAY, steps=2, tasks=2, queries=2, size=SIZE, filters=(2, 2, 2, 2), train_way=WAY,
    inner_steps=3, nudged_steps=2, test_steps=None, views=1, test_tasks=4, test_queries=4,
    valid_tasks=4, valid_queries=4,
)  # fmt: skip


def images(part, channels=1):
    """Six classes of noisy copies of one image each, other ones in each part."""
    rng = np.random.default_rng(["train", "valid", "test"].index(part))
    shape = (6, 20, SIZE, SIZE, channels)
    pixels = 180 * rng.random((6, 1, *shape[2:])) + 60 * rng.random(shape)
    return Images(pixels.astype(np.uint8), tuple(f"{part}{i}" for i in range(6)))


def first_layer(filters, *, channels, size, classes, **_):
    """The first of the network's four layers, which compiles in a fraction; and the head."""
    head = [] if classes is None else [Layer(size**2 // 4 * filters[0], classes, relu=False)]
    return stacked([Layer(channels, filters[0], 3, 2, 1, norm=True), *head], "highest", "lax")


@pytest.fixture(autouse=True)
def compile_fast(monkeypatch):
    monkeypatch.setattr(_few_shot_learners, "conv4", first_layer)


def small(method, **changed):
    return replace(METHODS[method], **(SMALL | changed))


def toy_run(s, images=images):
    classes = _few_shot.Classes(images, rotate_train=True, rotate_held_out=True)
    return _few_shot.run(omniglot.EXPERIMENT, s, learner(s, 1), classes)


# They differ from another one in their rules alone, which tests of the core hold.
LIKE_OTHERS = {"imaml-cg", "maml", "fomaml", "anil", "maml-trajectory", "cml-mod", "reptile"}


@pytest.mark.parametrize(
    "method",
    [pytest.param(m, marks=pytest.mark.thorough if m in LIKE_OTHERS else ()) for m in METHODS],
)
def test_every_method_runs_and_leaves_its_result(method, tmp_path, monkeypatch):
    drawn = method == "cml-head"
    if not drawn:
        monkeypatch.setattr(_few_shot, "figure", lambda *_: None)
    result = toy_run(small(method, views=int(drawn), out=tmp_path))
    assert result == json.loads((tmp_path / "result.json").read_text())
    assert (result["n_tasks"], result["diverged"], result["meta_steps"]) == (4, 0, 2)
    assert 0 < result["value"] <= 100 * (1 + 1e-6)  # a mean in float32
    assert result["transductive"] is (method != "cml-head")
    last = result["curve"][-1]
    assert last["step"] == 2 and 0 <= last["valid_accuracy"] <= 100 * (1 + 1e-6)
    assert (
        {"episode.png", "learning.png", "filters.png"} <= {path.name for path in tmp_path.iterdir()}
    ) is drawn


@pytest.mark.thorough
def test_maml_by_trajectory_has_the_gradient_of_maml():
    """Through ReLU and batch norm, in first derivatives."""
    task = episodes(images("train"), WAY, 1, 4)(jax.random.key(0))

    def gradient(method):
        made = learner(small(method), 1)
        theta = made.first_theta(jax.random.key(1))
        run = meta_gradient(made.problem(), made.solver(), made.estimator(), by_z=False)
        return jax.jit(run)(theta, task)

    exact, found = (gradient(method) for method in ("maml", "maml-trajectory"))
    # Three steps of differences in float64, balanced for a loss that bends a thousand times more.
    assert relative_error(found.by_theta, exact.by_theta) < 1e-8 and found.aux["error"] < 1e-8
    assert not found.aux["flags"].raised()


def verdicts(method, queries):
    """Logits of the first queries of a task, after testing on it with all of them or with few."""
    made = learner(small(method), 1)
    task = episodes(images("test"), WAY, 1, 4)(jax.random.key(0))
    task = task._replace(test=jax.tree.map(lambda leaf: leaf[:queries], task.test))
    references = jnp.ones((5, SIZE, SIZE, 1)) * 0.5
    theta = made.prepare(made.first_theta(jax.random.key(1)), references)

    @jax.jit
    def logits(theta):
        inputs = made.features(test=True)(theta, task)
        phi = made.problem(test=True).init(*inputs)
        return made.logits(phi + 1.0 if method == "cml-head" else phi, inputs[0], inputs[1].test.x)

    return logits(theta)[:2]


def test_the_head_judges_each_query_by_itself_and_the_published_learners_do_not():
    # Sums of tens of products of order one.
    assert relative_error(verdicts("cml-head", 2), verdicts("cml-head", 12)) < 1e4 * EPS
    assert relative_error(verdicts("cml-syn", 2), verdicts("cml-syn", 12)) > 1e-3


def test_views_are_averaged():
    s = small("cml-head", views=2)
    task = episodes(images("test"), WAY, 1, 4)(jax.random.key(0))
    made = learner(s, 1)
    theta = made.prepare(made.first_theta(jax.random.key(0)), task.test.x)
    _, viewed = made.features(test=True)(theta, task)
    _, plain = learner(replace(s, views=0), 1).features(test=True)(theta, task)
    net = network(s, 1)
    stats = net.statistics(theta.body, task.test.x)
    each = [
        net.apply(
            theta.body, jnp.concatenate([distorted(key, x[None]) for x in task.test.x]), stats
        )
        for key in jax.random.split(jax.random.key(0), 2)
    ]
    mean = (plain.test.x + sum(each) / np.sqrt(each[0].shape[1])) / 3
    assert relative_error(viewed.test.x, mean) < 1e3 * EPS
    assert relative_error(viewed.test.x, plain.test.x) > 1e-3


def test_features_of_length_one_are_centred_by_training_images_and_then_by_no_query():
    made = learner(small("cml-head", unit=True), 1)
    task = episodes(images("test"), WAY, 1, 4)(jax.random.key(0))
    references = jax.random.uniform(jax.random.key(2), (5, SIZE, SIZE, 1))
    theta = made.prepare(made.first_theta(jax.random.key(1)), references)
    _, f = made.features(test=True)(theta, task)
    for half in f:
        assert relative_error(jnp.linalg.norm(half.x, axis=1), jnp.ones(len(half.y))) < 1e-3
    few = task._replace(test=jax.tree.map(lambda leaf: leaf[:2], task.test))
    _, alone = made.features(test=True)(theta, few)
    assert relative_error(alone.test.x, f.test.x[:2]) < 1e4 * EPS
    mean = jnp.mean(network(made.s, 1).apply(theta.body, references), 0)
    assert relative_error(theta.reference.centre, mean) < 1e4 * EPS


def test_fast_weights_are_tested_on_distorted_copies_too_and_learn_from_them():
    made = learner(small("cml-syn"), 1)  # with one further view
    theta = made.first_theta(jax.random.key(0))
    task = episodes(images("test"), WAY, 2, 3)(jax.random.key(1))
    (key,) = jax.random.split(jax.random.key(0), 1)
    moved = lambda x: jnp.concatenate([distorted(key, image[None]) for image in x])
    _, copied = made.features(test=True)(theta, task)
    np.testing.assert_array_equal(copied.train.y, np.tile(task.train.y, 2))
    np.testing.assert_array_equal(copied.test.x, task.test.x)
    expected = jnp.concatenate([task.train.x, moved(task.train.x)])
    assert relative_error(copied.train.x, expected) < 1e3 * EPS
    assert made.features() is None  # in training there are no copies
    logs = lambda x: jax.nn.log_softmax(made.apply(theta, theta, x))
    mean = (logs(task.test.x) + logs(moved(task.test.x))) / 2
    assert relative_error(made.logits(theta, theta, task.test.x), mean) < 1e4 * EPS
    assert relative_error(logs(task.test.x), mean) > 1e-3


def test_a_test_may_take_other_steps_than_training():
    steps = lambda made: (made.solver().steps, made.solver(test=True).steps)
    assert steps(learner(small("cml-syn", test_steps=7), 1)) == (3, 7)
    assert steps(learner(small("maml"), 1)) == (3, 3)


def test_anil_adapts_the_head_alone():
    made = learner(small("anil"), 1)
    theta = made.first_theta(jax.random.key(0))
    task = episodes(images("train"), WAY, 1, 2)(jax.random.key(1))
    problem, solver, features = made.problem(), made.solver(), made.features()

    @jax.jit
    def phi_and_grads(theta):
        inputs, pull_back = jax.vjp(lambda theta: features(theta, task), theta)
        meta = meta_gradient(problem, solver, made.estimator(), by_z=True)(*inputs)
        grad = pull_back((meta.by_theta, meta.by_z))[0]
        return solve_inner(problem, solver, *inputs).phi, grad

    phi, grad = phi_and_grads(theta)
    assert jax.tree.map(jnp.shape, phi) == jax.tree.map(jnp.shape, theta.head)
    assert not np.array_equal(phi["w"], theta.head["w"])
    assert all(jnp.any(leaf != 0) for leaf in jax.tree.leaves(grad.body[0]["w"]))


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
    splits = folds(task, shot)
    assert len(splits.train.y) == (shot + query) // shot
    np.testing.assert_array_equal(splits.train.x[0], task.train.x)
    learned = np.sort(splits.train.x.ravel())
    np.testing.assert_array_equal(learned, np.sort(list(true_class)))
    for k in range(len(splits.train.y)):
        both = np.concatenate([splits.train.x[k], splits.test.x[k]]).ravel()
        np.testing.assert_array_equal(np.sort(both), np.sort(list(true_class)))
        labels = np.concatenate([splits.train.y[k], splits.test.y[k]])
        assert labels.tolist() == [true_class[i] for i in both.tolist()]


def test_modulation_leaves_the_convolutions_slow():
    made = learner(small("cml-mod"), 1)
    phi = made.problem().init(made.first_theta(jax.random.key(0)), None)
    assert [gain.shape for gain in phi.gain] == [(2,)]
    assert sorted(phi.head) == ["b", "w"]


def test_published_settings_are_kept():
    s = omniglot.for_kind("cml-syn", 20, 1, published=True)
    # Weight decay 0.5 with a factor 1/2 is lambda = 0.25 without.
    assert (s.beta, s.pull, s.tasks, s.steps) == (0.03, 0.25, 16, 3750)
    assert (s.inner_steps, s.nudged_steps, s.inner_rate) == (200, 100, 0.01)
    assert (s.size, s.filters, s.views, s.nudge) == (28, (64,) * 4, 0, "outer")
    mini = miniimagenet.for_kind("cml-syn", 5, 1, published=True)
    assert (mini.beta, mini.inner_steps, mini.nudged_steps, mini.steps) == (0.01, 100, 75, 25_000)
    assert (mini.size, mini.filters, mini.outer_rate, mini.tasks) == (84, (32,) * 4, 1e-3, 4)


@pytest.fixture
def runs(monkeypatch):
    """The settings of each run of Omniglot that was asked for and is not done."""
    asked = []
    monkeypatch.setattr(omniglot, "run", lambda s: asked.append(s))
    return asked


def test_defaults_are_of_the_kind_of_task_that_is_asked_for(start, runs, monkeypatch):
    minis = []
    monkeypatch.setattr(miniimagenet, "run", lambda s: minis.append(s))
    some = lambda: (runs[-1].beta, runs[-1].pull, runs[-1].steps, runs[-1].out)
    words = ("--method", "cml-syn", "--way=5", "--shot", 5)
    assert start(omniglot, *words) == 0
    assert some() == (0.1, 0.05, 24_000, None)
    assert start(omniglot, *words, "--published", "--beta", 0.7) == 0
    assert (some(), runs[-1].published) == ((0.7, 0.05, 3750, None), True)
    assert start(omniglot, "--shot", 5, "--steps", 48_000, "--quick") == 0
    assert some() == (10.0, 0.0, 48_000, None)
    assert (runs[-1].queries, runs[-1].views, runs[-1].test_tasks) == (5, 0, 200)
    assert start(miniimagenet, "--mirror", False) == 0
    assert (minis[-1].mirror, minis[-1].unit) == (False, True)


def test_a_kind_of_task_is_a_number(start, capsys):
    assert start(miniimagenet, "--way", "three") == 2
    assert "--way: invalid int value: 'three'" in capsys.readouterr().err


def test_each_kind_of_task_has_its_folder(start, runs):
    mini = miniimagenet.EXPERIMENT.folder(miniimagenet.for_kind("maml"))
    assert mini.parts == ("runs", "miniimagenet", "5w1s", "maml", "seed0")
    s = omniglot.for_kind("anil", 5, 5)
    folder = omniglot.EXPERIMENT.folder(s)
    assert folder.parts == ("runs", "omniglot", "5w5s", "vinyals", "anil", "seed0")
    assert start(omniglot, "--method", "all", "--way", 5, "--shot", 5) == 0
    assert [s.method for s in runs] == list(METHODS)
    assert folder in [s.out for s in runs]
    assert omniglot.EXPERIMENT.folder(runs[0]) == runs[0].out


@pytest.mark.parametrize(
    ("experiment", "channels"),
    [(omniglot, 1), pytest.param(miniimagenet, 3, marks=pytest.mark.thorough)],
)
def test_both_run_from_the_command_line(experiment, channels, start, tmp_path, monkeypatch, capsys):
    name = experiment.EXPERIMENT.name
    monkeypatch.setattr(experiment, name, lambda part, **_: images(part, channels))
    monkeypatch.setattr(_few_shot, "figure", lambda *_: None)
    few = dict(SMALL, views=0, steps=1, train_way=4, queries=3) | {"out": tmp_path / "run"}
    words = [("--" + k.replace("_", "-"), x) for k, x in few.items() if x is not None]
    flat = [w for k, x in words for w in ((k, *x) if isinstance(x, tuple) else (k, x))]
    assert start(experiment, *flat) == 0
    assert "3w1s cml-head" in capsys.readouterr().out
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["n_tasks"], result["settings"]["train_way"]) == (4, 4)
    print_report(tmp_path)
    assert "3w1s cml-head" in capsys.readouterr().out


def test_what_cannot_be_run_is_refused(start, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert start(omniglot, "--published") == 2
    assert "published: cml-head is ours alone" in capsys.readouterr().err
    assert start(omniglot, "--method", "nonsense") == 2
    assert "method: unknown 'nonsense'; choose one of cml-head" in capsys.readouterr().err
    assert start(omniglot, "--split", "nonsense") == 2
    assert not list(tmp_path.iterdir())


def test_what_all_images_share_is_nothing_to_a_centred_head():
    x = jnp.asarray(images("train").pixels[:, 0], jnp.float32) / 255

    def change(centred):
        one = learner(small("cml-syn", centred=centred), 1)
        body, head = one.first_theta(jax.random.key(0))
        # So large that every unit is active: the features of all images are moved alike.
        moved = lambda shift: [body | {"shift": body["shift"] + shift}, head]
        return one.apply(moved(20.0), None, x) - one.apply(moved(10.0), None, x)

    assert float(jnp.max(jnp.abs(change(True)))) < 1e-4
    assert float(jnp.max(jnp.abs(change(False)))) > 0.1


def test_no_update_leads_beyond_the_largest_gain():
    theta = [{"w": jnp.array([1.4, -1.4, 0.0]), "gain": jnp.array([1.4, -1.4, 0.0])}]
    grads = [{"w": jnp.array([-1.0, 1.0, -1.0]), "gain": jnp.array([-1.0, 1.0, -1.0])}]

    def updated(**changed):
        optimizer = _few_shot.outer_optimizer(small("cml-syn", outer_rate=0.5, **changed))
        updates, _ = optimizer.update(grads, optimizer.init(theta), theta)
        return optax.apply_updates(theta, updates)[0]

    free, bounded = updated(largest_gain=None), updated(largest_gain=1.5)
    assert np.array_equal(free["w"], bounded["w"])
    assert np.allclose(free["gain"], [1.9, -1.9, 0.5])
    assert np.allclose(bounded["gain"], [1.5, -1.5, 0.5])
