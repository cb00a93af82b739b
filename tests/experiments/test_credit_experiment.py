"""The credit experiment: what each method is, its results, its figure."""

import json
from dataclasses import replace
from functools import partial

import credit
import frame
import jax
import numpy as np
import pytest

import metacontrast as mc
from metacontrast.report import figure
from metacontrast.tasks import sine
from metacontrast.train import summarise, write_result


def settings(name, **changes):
    """With few inner steps."""
    small = dict(free=4, nudged=2, cosines=2, test_tasks=2, valid_tasks=2, steps=2)
    return replace(credit.EXPERIMENT.methods[name], **(small | changes))


def some_tasks(n, queries=100):
    return frame.stack_tasks(partial(sine, queries=queries), "valid", n)


def after_a_step(seed):
    s = settings("direct-feedback-alignment", seed=seed, free=1)
    learned, solver, _ = credit.learner(s)
    task = jax.tree.map(lambda leaf: leaf[0], some_tasks(1, 10))
    phi = mc.solve_inner(learned, solver, credit.first_theta(replace(s, seed=0)), task).phi
    return np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(phi)])


def test_random_feedback_is_drawn_once_a_seed():
    first, again, other = (after_a_step(seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.linalg.norm(first - other) > 1e-3 * np.linalg.norm(first)


def test_the_exact_gradient_is_that_of_the_learner_itself():
    # With the same number of steps in both, backprop that has converged has cosine one.
    s = settings("backprop", free=300, nudged=300, first_lambda=50.0)
    values = credit.cosines(s, {"first": credit.first_theta(s)})
    assert values["cosine_first"] > 0.99 and values["cosine_mean_first"] > 0.99


def test_a_run_has_cosines_beside_the_error(tmp_path):
    result = credit.run(settings("feedback-alignment", seed=3, out=tmp_path / "run"))
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == result
    told = result["method"], result["meta_steps"], result["n_tasks"]
    assert told == ("feedback-alignment", 2, 2)
    for when in ("first", "last"):
        for kind in ("cosine", "cosine_mean"):
            assert 0 < result[f"{kind}_{when}"] <= 1


def test_equilibrium_propagation_is_tested_by_its_own_equilibrium():
    s = settings("equilibrium-propagation", gamma=0.5)
    learned, solver, _ = credit.learner(s)
    theta, tasks = credit.first_theta(s), some_tasks(1)
    task = jax.tree.map(lambda leaf: leaf[0], tasks)
    phi = mc.solve_inner(learned, solver, theta, task).phi
    own, plain = (
        float(credit.squares(apply, phi, task.test)) / 100
        for apply in (credit.network(s), credit.NET.apply)
    )
    assert own != pytest.approx(plain, rel=1e-2)
    assert credit.scorer(s)(theta, tasks)[0] == pytest.approx(own, rel=1e-9)


def test_the_figure_shows_what_was_run(tmp_path):
    for seed, value in ((0, 0.4), (1, 0.6)):
        facts = dict(experiment="credit", method="backprop", metric="", seeds=[seed])
        facts |= dict(meta_steps=1, seconds=1.0, reference="", cosine_first=0.5, cosine_last=0.9)
        folder = tmp_path / "backprop" / f"seed{seed}"
        write_result(folder, summarise([value, value], **facts))
        (folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "valid_loss": value}) + "\n")
    widths = []

    def draw(axes):
        credit.draw(credit.rows_of(tmp_path), axes)
        widths.extend([bar.get_width() for bar in ax.patches] for ax in axes.flat)
        widths.append(axes.flat[2].lines[0].get_ydata())

    assert figure(tmp_path / "credit", draw, 1, 3).stat().st_size > 0
    np.testing.assert_allclose(widths[0], [0.5])
    np.testing.assert_allclose(widths[1], [0.5, 0.9])
    np.testing.assert_allclose(widths[-1], [0.5])
