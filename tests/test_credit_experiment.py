"""The credit experiment: what each method is, its results, its figure."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

import metacontrast as mc
from metacontrast.experiments import credit, sine
from metacontrast.experiments._credit_figure import draw_panels
from metacontrast.report import figure
from metacontrast.train import summarise, write_result

SMALL = replace(credit.Settings(), free=4, nudged=2, cosines=2)


def gradient(name, seed=0, **settings):
    learned, solve, estimator = credit.parts(name, replace(SMALL, **settings), seed)
    theta = sine.first_theta(0, 5.0)
    task = jax.tree.map(lambda leaf: leaf[0], sine.held_out(7, 1, queries=10))
    grad = jax.jit(lambda theta, key: estimator.value_and_grad(learned, solve, theta, task, key)[1])
    return grad(theta, jax.random.key(0))


def test_random_feedback_is_drawn_once_a_seed():
    grads = [gradient("direct-feedback-alignment", seed) for seed in (0, 0, 1)]
    first, again, other = (np.concatenate([x.ravel() for x in jax.tree.leaves(g)]) for g in grads)
    np.testing.assert_array_equal(first, again)
    assert np.linalg.norm(first - other) > 1e-3 * np.linalg.norm(first)


def test_the_exact_gradient_is_that_of_the_learner_itself():
    # With the same number of steps in both, backprop that has converged has cosine one.
    settings = replace(credit.Settings(), free=300, nudged=300, first_lambda=50.0, cosines=2)
    theta = {"first": sine.first_theta(0, 50.0)}
    found = credit.cosines("backprop", settings, 0, theta)
    assert found["cosine_first"] > 0.99 and found["cosine_mean_first"] > 0.99


def test_a_run_tells_cosines_beside_the_error(tmp_path):
    out = tmp_path / "run"
    result = credit.run("predictive-coding", seed=3, steps=2, out=out, settings=SMALL)
    assert json.loads((out / "result.json").read_text()) == result
    assert (result["method"], result["meta_steps"], result["n_tasks"]) == (
        "predictive-coding",
        2,
        1000,
    )
    for when in ("first", "last"):
        for kind in ("cosine", "cosine_mean"):
            assert 0 < result[f"{kind}_{when}"] <= 1


def test_equilibrium_propagation_is_judged_by_its_own_equilibrium():
    small = replace(SMALL, gamma=0.5)
    learned, solve, _ = credit.parts("equilibrium-propagation", small, 0)
    theta, tasks = sine.first_theta(0, 5.0), sine.held_out(7, 1)
    task = jax.tree.map(lambda leaf: leaf[0], tasks)
    phi = mc.learn(learned, solve, theta, task).phi
    apply = credit.network("equilibrium-propagation", small)
    errors = [
        float(np.mean((f(phi, x) - y) ** 2))
        for f in (apply, sine.NET.apply)
        for x, y in [(task.test.x[0], task.test.y[0])]
    ]
    assert errors[0] != pytest.approx(errors[1], rel=1e-2)
    found = credit.scorer("equilibrium-propagation", small, 0)(theta, tasks)[0]
    mean = np.mean(
        [(apply(phi, x) - y) ** 2 for x, y in zip(task.test.x, task.test.y, strict=True)]
    )
    assert found == pytest.approx(mean, rel=1e-9)


def test_the_figure_shows_what_was_run(tmp_path):
    for seed, value in ((0, 0.4), (1, 0.6)):
        facts = dict(experiment="credit", method="backprop", metric="", seeds=[seed])
        facts |= dict(meta_steps=1, seconds=1.0, reference="", cosine_first=0.5, cosine_last=0.9)
        folder = tmp_path / "backprop" / f"seed{seed}"
        write_result(folder, summarise([value, value], **facts))
        (folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "valid_loss": value}) + "\n")
    shown = []

    def draw(axes):
        draw_panels(tmp_path, credit.METHODS, axes)
        shown.extend([bar.get_height() for bar in ax.patches] for ax in axes.flat)

    assert figure(tmp_path / "credit", draw, 1, 3).stat().st_size > 0
    np.testing.assert_allclose(shown[0], [0.5])
    np.testing.assert_allclose(shown[1], [0.5, 0.9])


@pytest.mark.parametrize(
    ("name", "seed", "message"),
    [("nonsense", 0, "method: unknown 'nonsense'"), ("backprop", 2**31 - 1, "draws held-out")],
)
def test_bad_input_is_refused(name, seed, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        credit.run(name, seed, out=tmp_path)
