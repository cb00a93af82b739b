"""Test tasks have no part in what is chosen: what is validated is drawn apart from them."""

from dataclasses import replace

import complementary
import complementary_characters as characters
import credit
import estimators
import frame
import jax
import numpy as np
import pytest
import sine
import spiking

from metacontrast.tasks import Images
from metacontrast.train import Trained

FEW = dict(valid_tasks=2, test_tasks=2, test_queries=3)
RUNS = {
    sine: replace(sine.METHODS["maml"], **FEW, free=2),
    complementary: replace(complementary.METHODS["batch"], **FEW),
    characters: replace(characters.METHODS["batch"], **FEW, hidden=4),
    credit: replace(credit.EXPERIMENT.methods["predictive-coding"], **FEW, free=2),
    spiking: replace(spiking.METHODS["eprop-bptt"], **FEW, free=2),
}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Nothing is drawn, no gradients are compared, and each character has one image."""
    for module in (sine, spiking):
        monkeypatch.setattr(module, "figure", lambda *args: None)
    cosines = dict(cosine_first=0.0, cosine_last=0.0)
    monkeypatch.setattr(credit, "cosines", lambda *args: cosines)
    pixels = np.random.default_rng(0).integers(0, 256, (6, 1, 14, 14, 1)).astype(np.uint8)
    images = Images(np.repeat(pixels, 20, axis=1), tuple("abcdef"))
    monkeypatch.setattr(characters, "omniglot", lambda part, size: images)


def without_truth(task):
    """The same with targets that nothing comes near: errors are NaN, and no class is right."""
    if task.test.y.dtype.kind == "f":
        return task._replace(test=task.test._replace(y=np.nan * task.test.y))
    return task._replace(test=task.test._replace(y=-1 - task.test.y))


@pytest.fixture
def no_tests(monkeypatch):
    """Tasks from the seed of tests are without truth."""
    draw = frame.stack_tasks

    def drawn(sample_task, seed, n):
        tasks = draw(sample_task, seed, n)
        return without_truth(tasks) if seed == frame.TEST_SEED else tasks

    monkeypatch.setattr(frame, "stack_tasks", drawn)


@pytest.fixture
def validated(monkeypatch):
    """What is said of the first theta, which is taken for the learned one."""
    said = []

    def at_once(self, s, problem, solver, estimator, sample, theta, optimizer, **options):
        said.append(options["validate"](theta))
        return Trained(theta, theta, ())

    monkeypatch.setattr(frame.Experiment, "meta_train", at_once)
    return said


@pytest.mark.parametrize("experiment", RUNS, ids=lambda module: module.__name__)
def test_validation_tasks_are_of_another_seed(experiment, no_tests, validated, tmp_path):
    result = experiment.run(replace(RUNS[experiment], out=tmp_path))
    assert result["value"] in (None, 0.0)
    (said,) = validated
    # The same images to learn and to be tested by: their classes are told apart.
    assert np.isfinite(said["loss"]) and said.get("accuracy", 100.0) > 0


def test_validation_characters_are_other_ones(monkeypatch, validated, tmp_path):
    sampler = characters.sampler

    def sampled(s, part, queries):
        draw = sampler(s, part, queries)
        return (lambda key: without_truth(draw(key))) if part == "test" else draw

    monkeypatch.setattr(characters, "sampler", sampled)
    assert characters.run(replace(RUNS[characters], out=tmp_path))["value"] == 0
    assert validated[0]["accuracy"] > 0


def test_outer_rates_are_chosen_on_other_tasks(monkeypatch, no_tests, tmp_path):
    monkeypatch.setattr(estimators, "theta_or_none", lambda s, steps, rate: first_theta(s))
    first_theta = lambda s: frame.synapses(estimators.NET.init, s.seed, s.first_lambda)
    monkeypatch.setattr(estimators, "measure_speeds", lambda s, names: {"first-order": 1.0})
    s = estimators.EXPERIMENT.methods["first-order"]
    result = estimators.run(replace(s, **FEW, free=2, rates=(0.1,), out=tmp_path))
    assert result["value"] is None
    assert np.isfinite(result["validation"]["0.1"])


@pytest.mark.parametrize("seed", [frame.VALID_SEED, frame.TEST_SEED])
def test_no_run_draws_held_out_tasks(seed):
    with pytest.raises(ValueError, match=f"seed: {seed} draws held-out tasks"):
        sine.EXPERIMENT.folder(replace(RUNS[sine], seed=seed))


def test_the_streams_are_two():
    draw = lambda seed: frame.stack_tasks(jax.random.normal, seed, 3)
    assert not np.isin(draw(frame.VALID_SEED), draw(frame.TEST_SEED)).any()
