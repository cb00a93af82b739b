"""The sine experiment: a run of seconds from its command, and what each method is."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import _sine_published as published
import _sine_tuning
import _tried
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sine
from problems import meta_grad

import metacontrast as mc
from metacontrast import _demo
from metacontrast.report import print_report
from metacontrast.train import DivergedError

FEW = ("--test-tasks", 4, "--test-queries", 5, "--valid-tasks", 2)


def test_a_run_leaves_its_result_and_the_report_shows_it(start, tmp_path, capsys, monkeypatch):
    words = ("--method", "maml", "--seed", 4, "--out", tmp_path / "m", "--tasks", 2, *FEW)
    assert start(sine, *words, "--steps", 2) == 0
    result = json.loads((tmp_path / "m" / "result.json").read_text())
    assert {k: result[k] for k in ("method", "seeds", "meta_steps", "n_tasks", "reference")} == {
        "method": "maml", "seeds": [4], "meta_steps": 2, "n_tasks": 4,
        "reference": "0.435 +- 0.039",
    }  # fmt: skip
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    for settings in (config, result["settings"]):
        assert {k: settings[k] for k in ("tasks", "outer_rate", "free")} == {
            "tasks": 2, "outer_rate": 1e-2, "free": 10,
        }  # fmt: skip
    assert (tmp_path / "m" / "predictions.png").stat().st_size > 0
    capsys.readouterr()
    print_report(tmp_path)
    table = capsys.readouterr().out
    (maml,) = [line for line in table.splitlines() if " maml " in line]
    assert f"{result['value']:.4f} +- {result['ci95']:.4f}" in maml
    assert table.count("not run") == 16
    monkeypatch.setattr(sine, "figure", lambda *args: None)  # drawn once is enough
    assert start(sine, *words, "--steps", 2) == 2
    assert "--resume" in capsys.readouterr().err
    assert start(sine, *words, "--steps", 2, "--resume") == 0
    assert json.loads((tmp_path / "m" / "result.json").read_text())["value"] == result["value"]
    assert start(sine, *words, "--steps", 12, "--resume") == 2
    assert "another run" in capsys.readouterr().err


def test_a_run_without_meta_steps_keeps_its_folder_too(start, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sine, "figure", lambda *args: None)
    words = ("--method", "scratch", "--out", tmp_path, *FEW, "--free", 3)
    assert start(sine, *words, "--seed", 1) == 0
    assert start(sine, *words, "--seed", 2) == 2
    assert "seed is 1 there and 2 now" in capsys.readouterr().err
    assert start(sine, *words, "--seed", 1) == 2
    assert start(sine, *words, "--seed", 1, "--resume") == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--method", "nonsense"), "method: unknown 'nonsense'"),
        (("--steps", "0"), "steps"),
        (("--method", "scratch", "--steps", "5"), "steps: scratch takes no"),
        (("--seed", str(2**31 - 1)), "seed: 2147483647 draws held-out tasks"),
    ],
)
def test_bad_input_ends_in_one_line(start, words, message, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert start(sine, *words) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [name for name in sine.METHODS if "scratch" not in name])
def test_every_method_has_a_meta_gradient_by_what_it_learns(name):
    s = replace(sine.METHODS[name], free=3, nudged=2)
    s = replace(s, beta=s.beta or 0.1)
    problem, solver, estimator = sine.learner(s)
    theta = sine.first_theta(s)
    task = sine.sine(jax.random.key(7))
    grad = meta_grad(problem, solver, estimator, theta, task, jax.random.key(1))
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(grad))
    assert all(bool((leaf != 0).any()) for leaf in jax.tree.leaves(grad))


def test_a_mini_batch_is_unbiased():
    s = replace(sine.METHODS["cml-sgd"], batch=9)
    problem, theta = sine.synapse(s), sine.first_theta(s)
    task = sine.sine(jax.random.key(3))
    keys = jax.random.split(jax.random.key(0), 400)
    inner = lambda task: problem.inner(theta.omega, theta, task)
    some = jax.jit(jax.vmap(lambda key: inner(problem.sample(task, key))))(keys)
    # The mean of 400, within 5 standard errors (false alarm: 6e-7).
    assert abs(some.mean() - inner(task)) < 5 * some.std() / np.sqrt(len(some))


def test_the_published_first_weights_have_variance_one_over_fan_in():
    for layer in sine.first_theta(sine.METHODS["paper-gd"]).omega.layers:
        fan_in = layer.weight.shape[1]
        assert not layer.bias.any()
        assert abs(layer.weight).max() <= np.sqrt(3 / fan_in)
        # The mean square of n uniform numbers has a relative standard deviation of sqrt(0.8 / n).
        spread = np.sqrt(0.8 / layer.weight.size)
        assert abs(fan_in * np.mean(layer.weight**2) - 1) < 5 * spread


def test_the_published_pull_is_ten_times_a_mean():
    s = sine.METHODS["paper-gd"]
    problem, theta, task = (
        sine.learner(s).problem,
        sine.first_theta(s),
        sine.sine(jax.random.key(3)),
    )
    phi = jax.tree.map(lambda leaf: leaf + 0.1, theta.omega)
    data = np.sum((jax.vmap(partial(relu, phi))(task.train.x) - task.train.y) ** 2)
    assert problem.sample is None
    np.testing.assert_allclose(problem.inner(phi, theta, task), data + 10 * 0.1**2, rtol=1e-6)


def relu(phi, x):
    *hidden, last = phi.layers
    for layer in hidden:
        x = jnp.maximum(layer.weight @ x + layer.bias, 0)
    return last.weight @ x + last.bias


def test_published_points_are_drawn_with_replacement_and_alike_of_both_halves():
    problem, task = sine.learner(sine.METHODS["paper-sgd"]).problem, sine.sine(jax.random.key(3))
    task = task._replace(test=mc.Data(task.train.x + 100, task.train.y))
    draws = [problem.sample(task, key) for key in jax.random.split(jax.random.key(0), 20)]
    for view in draws:
        assert view.train.x.shape == (10, 1) and np.isin(view.train.x, task.train.x).all()
        np.testing.assert_array_equal(view.test.x, view.train.x + 100)
    # All ten of ten are different in a draw with probability 4e-4.
    assert max(len(np.unique(view.train.x)) for view in draws) < 10


def test_the_published_adam_takes_small_steps_along_small_gradients():
    s = sine.METHODS["paper-gd"]
    for optimizer, rate in ((sine.outer_optimizer(s), 0.03), (published.adam(0.01), 0.01)):
        zero, small = jnp.zeros(()), jnp.array(1e-6)
        (step, _) = optimizer.update(small, optimizer.init(zero), zero)
        np.testing.assert_allclose(step, -rate * 1e-6 / np.sqrt(1e-12 + 2.0**-23), rtol=1e-3)


KEPT = Path(__file__).parents[2] / "results" / "sine-tuning.json"


@pytest.mark.parametrize("name", _sine_tuning.TRIALS)
def test_tuned_rates_are_the_best_of_all_that_were_tried(name):
    rows = [row for row in json.loads(KEPT.read_text())["rows"] if row["method"] == name]
    own = ("outer_rate", "last_rate", "rate", "beta")
    assert [tuple(row[x] for x in own) for row in rows] == _sine_tuning.TRIALS[name]
    best = min((row for row in rows if row["value"] is not None), key=lambda row: row["value"])
    published, tuned = sine.METHODS[name], sine.METHODS[f"{name}-tuned"]
    assert all(getattr(tuned, x) == best[x] for x in own)
    assert replace(published, method=tuned.method, **{x: best[x] for x in own}) == tuned


def test_a_trial_is_the_median_of_its_last_looks_and_what_is_finished_is_not_run_again(
    tmp_path, monkeypatch
):
    folder = tmp_path / "paper-gd-0.1-0.02-0.003-3"
    folder.mkdir()
    looks = [{"step": n, "valid_loss": float(n)} for n in range(20)]
    lines = "".join(json.dumps(line) + "\n" for line in [{"step": 0}, *looks])
    (folder / "metrics.jsonl").write_text(lines)
    (folder / "theta.npz").touch()
    monkeypatch.setattr(sine, "meta_train", lambda *args: pytest.fail("it is finished"))
    row = _sine_tuning.tried("paper-gd", (0.1, 0.02, 0.003, 3.0), tmp_path)
    assert row["value"] == 14.5 and row["looks"] == [float(n) for n in range(20)]

    def diverges(*args):
        raise DivergedError("meta-step 1")

    monkeypatch.setattr(sine, "meta_train", diverges)
    other = _sine_tuning.tried("paper-gd", (0.3, 0.02, 0.003, 3.0), tmp_path)
    assert other["value"] is None and other["looks"] == []
    _tried.write(tmp_path / "kept.json", [row, other], judged={"seed": 100})
    kept = json.loads((tmp_path / "kept.json").read_text())
    assert kept == {"judged": {"seed": 100}, "rows": [row, other]}


@pytest.mark.parametrize("name", _demo.PUBLISHED)
def test_the_demonstration_is_this_experiment(name):
    s, method = sine.METHODS[name], _demo.methods()[name]
    for field in ("steps", "queries", "outer_rate", "first_lambda"):
        assert getattr(method, field) == getattr(s, field) or not s.steps
    assert _demo.PUBLISHED[name] == sine.EXPERIMENT.rows[name]
    theta = sine.first_theta(s)
    task = sine.sine(jax.random.key(7))

    def both(problem, solver, estimator):
        phi = mc.solve_inner(problem, solver, theta, task).phi
        return phi, estimator and meta_grad(problem, solver, estimator, theta, task)

    jax.tree.map(np.testing.assert_array_equal, both(*sine.learner(s)), both(*method[:3]))


def test_the_demonstration_measures_what_this_experiment_does(tmp_path, monkeypatch):
    for module in (sine, _demo):
        monkeypatch.setattr(module, "figure", lambda *args: None)
    monkeypatch.setattr(_demo, "TEST_TASKS", 4)
    s = replace(sine.METHODS["scratch"], free=3, test_tasks=4, seed=3, out=tmp_path / "own")
    method = _demo.methods()["scratch"]._replace(solver=sine.learner(s).solver)
    shown = _demo.run("scratch", method, 3, tmp_path / "demo")
    own = sine.run(s)
    fields = ("experiment", "value", "std", "reference", "metric", "seeds")
    assert [shown[k] for k in fields] == [own[k] for k in fields]
    assert shown["rows"].items() <= own["rows"].items()
