"""The complementary experiment: what each method is, its results, its figure."""

import json

import jax
import numpy as np
import pytest
from problems import EPS

import metacontrast as mc
from metacontrast.brain import Plasticity, Tagged
from metacontrast.experiments import complementary, sine
from metacontrast.experiments._complementary_figure import PANELS, draw_panels
from metacontrast.report import figure
from metacontrast.train import summarise, write_result


def meta_gradient(name):
    settings = complementary.METHODS[name]
    theta = sine.first_theta(0, settings.first_lambda)
    task = jax.tree.map(lambda leaf: leaf[0], sine.held_out(7, 1, queries=10))
    solve, estimator = complementary.parts(name, settings)
    grad = jax.jit(
        lambda theta: estimator.value_and_grad(complementary.PROBLEM, solve, theta, task)
    )
    return estimator, grad(theta)


def test_online_is_batch_up_to_round_off():
    (online, (_, found)), (batch, (_, expected)) = map(meta_gradient, ("online", "batch"))
    assert isinstance(online, Tagged) and isinstance(batch, mc.Contrastive)
    # Each tag adds two readings, of at most twice lambda times the way from omega, over beta.
    reading = 2 * 50 * max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e3 * EPS * max(1.0, reading) / online.beta, rtol=0)


def test_every_method_spoils_what_it_is_named_after():
    perfect = complementary.Settings()
    for field, levels in PANELS.items():
        for level in levels:
            settings = complementary.METHODS[f"{field.replace('_', '-')}-{level:g}"]
            assert getattr(settings, field) == level != getattr(perfect, field)
            solve, estimator = complementary.parts("spoiled", settings)
            assert isinstance(solve, Plasticity) and isinstance(estimator, Tagged)
            assert solve.hippocampus == estimator.nudged.hippocampus


def test_a_run_tells_what_it_learns_from_its_own_memory_too(tmp_path):
    result = complementary.run("capacity-2", seed=3, steps=2, out=tmp_path / "run")
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == result
    assert (result["method"], result["meta_steps"], result["n_tasks"]) == ("capacity-2", 2, 1000)
    # Two points of a sine are not enough, ten are, even after two meta-steps.
    assert result["own_memory"] > 1.2 * result["value"]


def test_the_figure_shows_what_was_run(tmp_path):
    for name, seed, value in (("online", 0, 0.1), ("decay-0.01", 0, 0.4), ("decay-0.01", 1, 0.6)):
        facts = dict(experiment="complementary", method=name, metric="", seeds=[seed])
        facts |= dict(meta_steps=1, seconds=1.0, reference="", own_memory=value)
        write_result(tmp_path / name / f"seed{seed}", summarise([value, value], **facts))
    shown = {}

    def draw(axes):
        draw_panels(tmp_path, axes)
        for field, ax in zip(PANELS, axes.flat, strict=True):
            shown[field] = [line.get_ydata() for line in ax.lines if line.get_marker() == "o"]

    assert figure(tmp_path / "imperfections", draw, 2, 3).stat().st_size > 0
    np.testing.assert_allclose(shown.pop("decay"), [[0.5]])
    assert all(len(y) == 0 for lines in shown.values() for y in lines)


@pytest.mark.parametrize(
    ("name", "seed", "message"),
    [("nonsense", 0, "method: unknown 'nonsense'"), ("online", 2**31 - 1, "draws held-out tasks")],
)
def test_bad_input_is_refused(name, seed, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        complementary.run(name, seed, out=tmp_path)
