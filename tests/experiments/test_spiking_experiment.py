"""The spiking experiment: its phases, its pull, its runs."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import spiking
from problems import EPS, lazy, meta_grad, nudge_of, nudged_loss

import metacontrast as mc

SMALL = replace(
    spiking.METHODS["cml-eprop"], steps=10, tasks=2, free=2, nudged=2, test_tasks=2,
    test_queries=5, valid_tasks=2,
)  # fmt: skip


def one_task():
    return spiking.first_theta(SMALL), spiking.draw_task(jax.random.key(7))


def test_a_task_is_spikes_drawn_once():
    _, task = one_task()
    assert task.train.x.shape == (10, 20, 100) and task.test.x.shape == (10, 20, 100)
    assert set(np.unique(task.train.x)) == {0.0, 1.0}
    assert not np.array_equal(task.train.x, task.test.x)


@pytest.mark.thorough
def test_phases_see_the_same_spikes_and_the_negative_nudge_pushes_the_other_way():
    """The published code leaves out the test loss where beta < 0."""
    theta, task = one_task()
    problem, _, estimator = spiking.learner(SMALL)
    seen = []
    nudged = mc.as_solver(lambda loss, phi: (seen.append((loss, phi)), phi)[1])
    rule = replace(estimator, nudged=nudged)
    rule.value_and_grad(mc.Loss(problem, theta, task), lazy)
    losses, starts = zip(*seen, strict=True)
    assert [nudge_of(loss) for loss in losses] == [-SMALL.beta, SMALL.beta]
    assert all(loss.z is task for loss in losses)
    phi = starts[0]
    assert all(a is b for a, b in zip(*map(jax.tree.leaves, starts), strict=True))
    free = jax.grad(mc.Loss(problem, theta, task))(phi)
    away, towards = (jax.tree.map(jnp.subtract, jax.grad(loss)(phi), free) for loss in losses)
    outer = jax.grad(losses[0].outer)(phi)
    for a, b, g, f in zip(*map(jax.tree.leaves, (away, towards, outer, free)), strict=True):
        tolerance = 100 * EPS * float(jnp.abs(f).max() + jnp.abs(g).max())
        np.testing.assert_allclose(b, SMALL.beta * g, atol=tolerance)
        np.testing.assert_allclose(a, -SMALL.beta * g, atol=tolerance)
        assert float(jnp.abs(g).max()) > 0


@pytest.mark.thorough
def test_the_pull_has_its_factor_two_on_both_levels():
    """The published e-prop learner pulls half as hard as its meta-gradient believes."""
    theta, task = one_task()
    omega, log_lam = theta
    problem, solver, estimator = spiking.learner(SMALL)
    phi = jax.tree.map(lambda leaf: leaf + 0.01, omega)
    pull = jax.tree.map(
        jnp.subtract,
        jax.grad(problem.inner)(phi, theta, task),
        jax.grad(problem.inner)(phi, mc.Synapse(phi, log_lam), task),
    )
    by_omega = jax.grad(problem.inner, argnums=1)(phi, theta, task).omega
    # Of the value: a central difference of a quadratic is exact but for round-off, over 2 h.
    h = 1e-3
    shifted = lambda shift: omega._replace(recurrent=omega.recurrent.at[1, 2].add(shift))
    value = lambda shift: problem.inner(phi, theta._replace(omega=shifted(shift)), task)
    slope = (value(h) - value(-h)) / (2 * h)
    assert float(by_omega.recurrent[1, 2]) == pytest.approx(
        float(slope), abs=10 * EPS * float(value(0.0)) / h
    )
    for p, o in zip(pull, by_omega, strict=True):
        np.testing.assert_allclose(p, -o, atol=1e6 * EPS)  # the data gradients cancel: up to 1e3
        np.testing.assert_allclose(o, -2 * SMALL.first_lambda * 0.01, rtol=1e-9)
    # And of the meta-gradient, in closed form.
    free = mc.solve_inner(problem, solver, theta, task).phi
    ends = [estimator.nudged(nudged_loss(problem, theta, task, b), free) for b in (-0.1, 0.1)]
    expected = theta.contrast(ends[0].phi, ends[1].phi, 2 * SMALL.beta)
    grad = meta_grad(problem, solver, estimator, theta, task)
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    for a, b in zip(jax.tree.leaves(grad), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e6 * EPS * max(scale, 1.0))


def test_only_what_is_fast_learns_and_rates_differ_under_adam():
    """Factors of gradients would not: Adam divides by their scale."""
    s = replace(SMALL, adam=True, rates=(0.1, 1.0, 0.5), last_rate=1.0, free=1)
    theta, task = one_task()
    moved = {}
    for name in ("all", "W_in"):
        problem, solver, _ = spiking.learner(s, spiking.PARTS[name])
        phi = mc.solve_inner(problem, solver, theta, task).phi
        moved[name] = [float(jnp.abs(a - b).max()) for a, b in zip(phi, theta.omega, strict=True)]
    np.testing.assert_allclose(moved["all"], s.rate * np.array(s.rates), rtol=1e-3)
    np.testing.assert_allclose(moved["W_in"], [0.1 * s.rate, 0.0, 0.0], rtol=1e-3)


def test_a_fixed_lambda_stays():
    s = replace(SMALL, learn_lambda=False)
    theta, _ = one_task()
    rule = spiking.outer_optimizer(s)
    changes, _ = rule.update(jax.tree.map(jnp.ones_like, theta), rule.init(theta), theta)
    assert all(bool((leaf == 0).all()) for leaf in jax.tree.leaves(changes.log_lam))
    assert all(bool((leaf != 0).all()) for leaf in jax.tree.leaves(changes.omega))


@pytest.mark.thorough
def test_a_run_leaves_its_result_and_a_figure(tmp_path, monkeypatch):
    monkeypatch.setattr(spiking, "PARTS", {"all": spiking.ALL})
    s = replace(SMALL, seed=3, out=tmp_path)
    result = spiking.run(s)
    assert json.loads((tmp_path / "result.json").read_text()) == result
    assert (result["n_tasks"], result["meta_steps"], result["diverged"]) == (2, 10, 0)
    assert list(result["fast"]) == ["all"] and np.isfinite(result["fast"]["all"])
    assert (tmp_path / "spiking.png").stat().st_size > 0
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


# The two that are as long as the published one differ in numbers.
OTHERS = [name for name in spiking.METHODS if name not in ("cml-eprop", "paper-eprop")]


@pytest.mark.parametrize("name", OTHERS)
def test_every_other_method_has_a_finite_meta_gradient_by_every_matrix(name):
    settings = replace(spiking.METHODS[name], free=6, nudged=2)  # more than are kept if truncated
    theta, task = one_task()
    problem, solver, estimator = spiking.learner(settings)
    grad = meta_grad(problem, solver, estimator, theta, task)
    assert all(bool(jnp.isfinite(leaf).all() & (leaf != 0).any()) for leaf in grad.omega)
