"""The complementary experiment: what each method is, its results, its figure."""

import json
from dataclasses import replace

import _complementary
import complementary
import jax
import numpy as np
import pytest
from _complementary import PANELS
from problems import EPS, meta_grad

import metacontrast as mc
from metacontrast.brain import Plasticity, Tagged
from metacontrast.report import figure
from metacontrast.tasks import sine
from metacontrast.train import summarise, write_result


def meta_gradient(method):
    s = complementary.METHODS[method]
    solver, estimator = _complementary.learner(s, complementary.item_loss)
    task = sine(jax.random.key(7), shots=10, queries=10)
    at = complementary.first_theta(s), task
    return estimator, meta_grad(complementary.PROBLEM, solver, estimator, *at)


def test_online_is_batch_up_to_round_off():
    (online, grad), (batch, expected) = map(meta_gradient, ("online", "batch"))
    assert isinstance(online, Tagged) and isinstance(batch, mc.Contrastive)
    # Each tag adds two readings, of at most twice lambda times the way from omega, over beta.
    reading = 2 * 50 * max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    for a, b in zip(jax.tree.leaves(grad), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e3 * EPS * max(1.0, reading) / online.beta, rtol=0)


def test_every_method_spoils_what_it_is_named_after():
    perfect = complementary.METHODS["online"]
    for field, levels in PANELS.items():
        for level in levels:
            s = complementary.METHODS[f"{field.replace('_', '-')}-{level:g}"]
            assert getattr(s, field) == level != getattr(perfect, field)
            assert type(getattr(s, field)) is type(level)
            solver, estimator = _complementary.learner(s, complementary.item_loss)
            assert isinstance(solver, Plasticity) and isinstance(estimator, Tagged)
            assert solver.hippocampus == estimator.nudged.hippocampus
            assert s.forgets is (field in ("capacity", "memory_noise"))


def test_what_is_spoiled_reaches_the_process():
    s = complementary.METHODS["online"]
    s = replace(s, decay=0.1, tag_noise=0.2, jitter=3, at_once=0.4, capacity=5)
    solver, estimator = _complementary.learner(s, complementary.item_loss)
    assert (estimator.decay, estimator.noise, estimator.jitter, estimator.at_once) == (
        0.1, 0.2, 3, 0.4,
    )  # fmt: skip
    assert solver.hippocampus.capacity == 5
    solver, _ = _complementary.learner(_complementary.perfect_memory(s), complementary.item_loss)
    assert solver.hippocampus.capacity is None


@pytest.mark.thorough
def test_a_run_tells_what_it_learns_from_its_own_memory_too(start, tmp_path, capsys):
    words = ("--method", "capacity-2", "--seed", 3, "--steps", 2, "--out", tmp_path)
    few = ("--tasks", 2, "--test-tasks", 100, "--valid-tasks", 2)
    assert start(complementary, *words, *few) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["method"], result["meta_steps"], result["n_tasks"]) == ("capacity-2", 2, 100)
    # Two points of a sine are not enough, ten are, even after two meta-steps.
    assert result["own_memory"] > 1.2 * result["value"]
    assert f"from its own memory {result['own_memory']:.4f}" in capsys.readouterr().out


def test_the_figure_shows_what_was_run(tmp_path, capsys):
    for name, seed, value in (("online", 0, 0.1), ("decay-0.01", 0, 0.4), ("decay-0.01", 1, 0.6)):
        facts = dict(experiment="complementary", method=name, metric="", seeds=[seed])
        facts |= dict(meta_steps=1, seconds=1.0, reference="", own_memory=value)
        write_result(tmp_path / name / f"seed{seed}", summarise([value, value], **facts))
    shown = {}

    def draw(axes):
        complementary.draw_panels(complementary.EXPERIMENT.results(tmp_path), axes)
        for field, ax in zip(PANELS, axes.flat, strict=True):
            shown[field] = [line.get_ydata() for line in ax.lines if line.get_marker() == "o"]

    assert figure(tmp_path / "imperfections", draw, 2, 3).stat().st_size > 0
    np.testing.assert_allclose(shown.pop("decay"), [[0.5]])
    assert all(len(y) == 0 for lines in shown.values() for y in lines)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--method", "nonsense"), "method: unknown 'nonsense'"),
        (("--seed", 2**31 - 1), "draws held-out tasks"),
        (("--capacity", 0), "capacity: must be"),
        (("--decay", 1), "decay: must be"),
        (("--nudge", "loudly"), "--nudge"),
    ],
)
def test_bad_input_is_refused(words, message, start, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = ("--test-tasks", 2, "--valid-tasks", 2, "--steps", 1)
    assert start(complementary, *small, *words) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
