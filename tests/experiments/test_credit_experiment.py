"""The credit experiment: what each method is, its results, its figure."""

import json
from dataclasses import replace
from functools import partial

import _credit_figures
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


@pytest.mark.thorough
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
    assert [step for step, _ in result["curve"]] == [2]
    for when in ("first", "last"):
        for kind in ("cosine", "cosine_mean", "cosine_backprop"):
            assert 0 < result[f"{kind}_{when}"] <= 1
        assert result[f"cosine_own_{when}"] == result[f"cosine_backprop_{when}"]


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
        facts |= dict(curve=[[1, value]])
        folder = tmp_path / "backprop" / f"seed{seed}"
        write_result(folder, summarise([value, value], **facts))
    widths = []

    def draw(axes):
        _credit_figures.draw(credit.EXPERIMENT.results(tmp_path), axes)
        widths.extend([bar.get_width() for bar in ax.patches] for ax in axes.flat)
        widths.append(axes.flat[2].lines[0].get_ydata())

    assert figure(tmp_path / "credit", draw, 1, 3).stat().st_size > 0
    np.testing.assert_allclose(widths[0], [0.5])
    np.testing.assert_allclose(widths[1], [0.5, 0.9])
    np.testing.assert_allclose(widths[-1], [0.5])


def of_first_gradient(name, **changes):
    """The cosines of the rule's gradient, where a task's learning starts."""
    s = settings(name, **changes)
    theta, task = credit.first_theta(s), jax.tree.map(lambda leaf: leaf[0], some_tasks(1, 10))
    rows = {
        kind: np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(g)])
        for kind, gradient in credit.inner_gradients(s).items()
        if (g := gradient(theta, task, jax.random.key(0)))
    }
    cosine = lambda a, b: float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    return {kind: cosine(rows["rule"], rows[kind]) for kind in ("own", "backprop")}


@pytest.mark.parametrize("name", ["predictive-coding", "equilibrium-propagation"])
def test_a_rule_far_from_its_limit_has_another_gradient(name):
    near, far = of_first_gradient(name), of_first_gradient(f"{name}-far")
    assert max(far.values()) < 0.995 < 0.999 < min(near.values())
    if name == "equilibrium-propagation":  # with a small nudge, its own gradient is exact again
        small = of_first_gradient(f"{name}-far", inner_beta=1e-3)
        assert small["own"] > 0.99 > 0.95 > small["backprop"]


def test_the_table_has_every_cosine_of_a_method():
    row = dict(method="backprop", value=0.05, cosine_first=0.5, cosine_last=0.75)
    row |= dict(cosine_own_first=1.0, cosine_own_last=1.0)
    row |= dict(cosine_backprop_first=0.25, cosine_backprop_last=0.125)
    *_, line = _credit_figures.table([row]).splitlines()
    assert line.split() == ["backprop", "0.0500", "0.25", "0.12", "1.00", "1.00", "0.50", "0.75"]


def test_gradients_whose_squares_overflow_have_a_cosine_and_what_has_none_is_not_shown():
    task = np.array([[3.0, 4.0], [0.0, 0.0]], np.float32)
    large, small = (credit._rows((scale * task,), 2) for scale in (np.float32(1e30), 1))
    found = [credit._mean_cosine(large[i : i + 1], small[i : i + 1]) for i in range(2)]
    assert found[0] == pytest.approx(1) and np.isnan(found[1])
    run = {"method": "predictive-coding-far", "value": None, "cosine_first": None}
    assert _credit_figures.table([run]).splitlines()[-1].split() == [run["method"], *"-------"]
