"""The sine experiment with every estimator: a toy-sized run of the cheapest."""

import json
from dataclasses import replace

import estimators
import jax
import jax.numpy as jnp
import pytest
from problems import meta_grad

from metacontrast.tasks import sine


@pytest.fixture
def settings(tmp_path):
    """The cheapest, with a rate that diverges among those to choose from."""
    return replace(
        estimators.EXPERIMENT.methods["first-order"], free=5, nudged=2, tasks=2, test_tasks=2,
        valid_tasks=2, rates=(1e-2, 1e9), seconds=2.0, speeds=tmp_path / "speeds.json",
        out=tmp_path / "run",
    )  # fmt: skip


@pytest.mark.thorough
def test_a_rate_is_chosen_by_validation_and_a_diverging_one_is_not(settings, tmp_path):
    speeds = estimators.measure_speeds(settings, ["first-order"])
    written = json.loads(settings.speeds.read_text())
    assert (speeds, written["of"]["free"]) == (written["speeds"], 5)
    assert speeds["first-order"] > 0
    settings.speeds.write_text(json.dumps(written | {"speeds": {"first-order": 5.0}}))
    result = estimators.run(settings)
    assert (result["outer_rate"], result["meta_steps"], result["seconds"]) == (0.01, 10, 2.0)
    assert result["validation"]["1000000000.0"] is None or (
        result["validation"]["1000000000.0"] > result["validation"]["0.01"]
    )
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == result
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["steps"], config["seconds"], "speeds" in config) == (10, 2.0, False)


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore:Of 20 tasks:RuntimeWarning")
def test_a_rule_that_flags_itself_at_every_task_is_run_all_the_same(settings):
    crude = replace(settings, method="contrastive", beta=1e-4)
    trained = estimators._meta_train(crude, 10, 0.0)
    assert trained.flagged == 20  # of 2 tasks of 10 meta-steps


@pytest.fixture
def nothing_is_measured(monkeypatch):
    monkeypatch.setattr(estimators, "_seconds", None)  # would fail if it were called


def test_speeds_are_measured_once(settings, nothing_is_measured):
    cost = dict(tasks=2, shots=10, queries=10, free=5, nudged=2)
    settings.speeds.write_text(json.dumps({"of": cost, "speeds": {"reptile": 3.0}}))
    assert estimators.measure_speeds(settings, ["reptile"]) == {"reptile": 3.0}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--steps", 5), "steps: they follow from the time; give --seconds"),
        (("--seconds", 0), "seconds: must be positive, not 0"),
        (("--free", 7), "speeds: those in speeds.json are of other settings"),
    ],
)
def test_bad_input_is_refused(
    start, words, message, nothing_is_measured, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    cost = dict(tasks=25, shots=10, queries=10, free=100, nudged=50)
    (tmp_path / "speeds.json").write_text(json.dumps({"of": cost, "speeds": {}}))
    words = ("--method", "reptile", "--speeds", "speeds.json", *words)
    assert start(estimators, *words) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["speeds.json"]


# Those that differ from another one in an option alone.
LIKE_OTHERS = {"unrolled-remat", "unrolled-truncated", "implicit-hessian-free", "implicit-neumann"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=pytest.mark.thorough if n in LIKE_OTHERS else ())
        for n in estimators.NAMES
    ],
)
def test_every_estimator_has_a_meta_gradient(name):
    s = estimators.EXPERIMENT.methods[name]
    solver = estimators.nesterov(s.rate, s.free)
    theta = estimators.first_theta(s)
    at = theta, sine(jax.random.key(1)), jax.random.key(2)
    grad = meta_grad(estimators.problem(s), solver, estimators.estimator(s), *at)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(grad))
    assert bool((grad.omega.layers[0].weight != 0).any())
