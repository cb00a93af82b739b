"""Learners outside JAX: the rule in NumPy, numerical slopes, black boxes, tasks side by side."""

import importlib
import os
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import joblib
import numpy as np
import pytest
from distributed import Client, LocalCluster
from problems import (
    EPS,
    closed_form,
    forbidden,
    meta_grad,
    newton,
    random_ridge,
    ridge,
    ridge_solution,
)

import metacontrast as mc
from metacontrast import external
from metacontrast._optional import optional
from metacontrast.train import DivergedError

RULES = {
    "forward": mc.Contrastive(beta=0.01),
    "order 2": mc.Contrastive(beta=0.01, order=2),
    "symmetric": mc.Contrastive(beta=0.01, scheme="symmetric"),
    "away": mc.Contrastive(beta=-0.01),
}


# The random ridge of `problems`, as a learner that hands NumPy arrays about.
_solution = jax.jit(lambda theta, task, beta: ridge_solution(theta, task, beta)[0])
_slope = jax.jit(
    jax.grad(
        lambda theta, phi, task, beta: (
            ridge.inner(phi, theta, task) + beta * ridge.outer(phi, theta, task)
        )
    )
)
FOREIGN = external.Learner(
    solve=lambda theta, task, beta, start: jax.device_get(_solution(theta, task, beta)),
    inner=jax.jit(ridge.inner),
    outer=jax.jit(ridge.outer),
    slope=lambda phi, theta, task, beta: jax.device_get(_slope(theta, phi, task, beta)),
)


@pytest.mark.parametrize("name", RULES)
def test_it_is_the_rule_of_jax(name):
    theta, task = random_ridge(0)
    rule = RULES[name]
    inside = mc.meta_gradient(ridge, closed_form(ridge_solution), rule)(theta, task)
    outside = external.meta_gradient(FOREIGN, theta, task, rule)
    assert outside.value == pytest.approx(float(inside.value), rel=1e3 * EPS)
    names = {"inner", "outer", "nudged_inner", "nudged_outer", "distance"}
    assert set(outside.aux) == {*names, "flags"} and not any(outside.aux["flags"])
    for key in names:
        number = outside.aux[key]
        np.testing.assert_allclose(number, inside.aux[key], rtol=1e-9, err_msg=key)
    # Each of the few slopes, about 1, is rounded by some tens of eps, and divided by beta.
    size = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(theta))
    atol = 1e3 * EPS * max(1.0, size) / 0.01
    close = lambda a, b: np.testing.assert_allclose(a, b, atol=atol, rtol=1e-10)
    jax.tree.map(close, outside.by_theta, inside.by_theta)


def test_numerical_slopes_stand_in_for_analytic_ones():
    theta, task = random_ridge(1)
    exact = external.meta_gradient(FOREIGN, theta, task, RULES["symmetric"])
    blind = external.meta_gradient(replace(FOREIGN, slope=None), theta, task, RULES["symmetric"])
    # Two slopes, each with an error of 4e-11 of the loss' scale (see numerical_slope), over 2 beta.
    scale = max(1.0, *exact.aux["nudged_inner"], *exact.aux["nudged_outer"])
    atol = 10 * 4e-11 * scale / 0.01
    assert atol < 1e-3 * max(np.abs(leaf).max() for leaf in jax.tree.leaves(exact.by_theta))
    close = lambda a, b: np.testing.assert_allclose(a, b, atol=atol)
    jax.tree.map(close, blind.by_theta, exact.by_theta)


@pytest.mark.parametrize("slope", [None, "analytic"])
@pytest.mark.parametrize("control", [False, True])
def test_an_outer_loss_may_depend_on_theta_itself(slope, control):
    # phi_0 = (task + theta) / 2, so that L_out = (phi_0 - theta)^2 = (task - theta)^2 / 4, of which
    # d phi_0 / d theta gives one half and theta itself, twice and with the other sign, the rest.
    theta, task, beta = 1.0, 3.0, 1e-3
    by_theta = lambda phi, theta, task, beta: -2 * (1 + beta) * (phi - theta)
    learner = external.Learner(
        solve=lambda theta, task, beta, start: (task + (1 + beta) * theta) / (2 + beta),
        inner=lambda phi, theta, task: (phi - task) ** 2 + (phi - theta) ** 2,
        outer=lambda phi, theta, task: (phi - theta) ** 2,
        slope=slope and by_theta,
    )
    meta = external.meta_gradient(learner, theta, task, mc.Contrastive(beta, control=control))
    # Forward differences err by beta / 2 times the ratio of curvatures, 1/2, to leading order.
    assert meta.by_theta == pytest.approx(-(task - theta) / 2, rel=beta)


def test_steps_of_numerical_slopes_are_in_units_of_theta():
    theta = np.array([1e5 + 1 / 3, 1e-3, -7e8])
    slope = external._numerical.numerical_slope(lambda t: float(np.sin(t / theta).sum()), theta)
    # Error of a step h on the scale of theta: h^2 / 6 and eps / h, with h of eps^(1/3) = 6e-6; of
    # the small one the step is larger than it is, see the docstring.
    np.testing.assert_allclose(slope[[0, 2]], np.cos(1) / theta[[0, 2]], rtol=1e-9)


def test_numerical_slopes_do_not_touch_theta():
    theta = {"a": np.array([1.0, -200.0]), "b": 3.0}
    slope = external._numerical.numerical_slope(
        lambda t: float(np.sum(t["a"] ** 2) * t["b"]), theta
    )
    # Truncation of a quadratic is nil; round-off is eps |loss| / h with |loss| 1.2e5, h 6e-6 or
    # 200 times that.
    np.testing.assert_allclose(slope["a"], [6.0, -1200.0], atol=1e-4)
    np.testing.assert_allclose(slope["b"], 40001.0, rtol=1e-8)
    assert theta["a"].tolist() == [1.0, -200.0] and theta["b"] == 3.0


class Recorded:
    """A learner that notes its phases."""

    def __init__(self):
        self.calls = []

    def solve(self, theta, task, beta, start):
        self.calls.append((beta, start))
        return np.array(len(self.calls), float)

    def learner(self, nudged=None):
        loss = lambda phi, theta, task: float(phi)
        return external.Learner(self.solve, loss, loss, lambda *_: np.array(1.0), nudged)


def test_nudged_phases_start_at_phi_0():
    record = Recorded()
    external.meta_gradient(record.learner(), 0.0, None, RULES["order 2"])
    assert record.calls == [(0.0, None), (0.01, 1.0), (0.02, 1.0)]


def test_control_runs_the_free_phase_again():
    record = Recorded()
    rule = mc.Contrastive(beta=0.5, control=True)
    external.meta_gradient(record.learner(), 0.0, None, rule)
    assert record.calls == [(0.0, None), (0.0, 1.0), (0.5, 1.0)]


def test_nudged_phases_may_be_solved_otherwise():
    free, nudged = Recorded(), Recorded()
    learner, rule = free.learner(nudged.solve), mc.Contrastive(beta=0.5, control=True)
    external.meta_gradient(learner, 0.0, None, rule)
    assert (free.calls, nudged.calls) == ([(0.0, None)], [(0.0, 1.0), (0.5, 1.0)])


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"scheme": "holomorphic"}, "scheme: learners outside JAX"),
        ({"nudge": "linear"}, "nudge: learners outside JAX"),
        ({"nudged": forbidden}, r"nudged: .* Learner\(nudged=...\)"),
    ],
)
def test_what_needs_jax_is_refused(rule, message):
    record = Recorded()
    with pytest.raises(ValueError, match=message):
        external.meta_gradient(record.learner(), 0.0, None, mc.Contrastive(0.1, **rule))
    assert record.calls == []


# A black box: Rosenbrock's valley, bent towards theta. No closed form; Newton finds its minimum.


def valley(phi, theta, task):
    return (phi[0] - theta[0]) ** 2 + 5 * (phi[1] - task * phi[0] ** 2) ** 2 + phi[1] ** 2


def target(phi, theta, task):
    return (phi[0] - 1.5) ** 2 + (phi[1] - 0.5) ** 2


def test_a_black_box_without_any_gradient():
    theta, task, rule = np.array([1.0]), 0.8, mc.Contrastive(0.02, "symmetric")
    simplex = external.nelder_mead()
    learner = external.black_box(lambda theta, task: np.zeros(2), valley, target, simplex)
    (estimate,) = external.meta_gradient(learner, theta, task, rule).by_theta
    problem, solver = mc.Problem(lambda theta, task: jnp.zeros(2), valley, target), newton(20)
    contrast = jax.vmap(
        lambda beta: meta_grad(problem, solver, replace(rule, beta=beta), jnp.array(theta), task)
    )
    coarse, fine = contrast(jnp.array([0.02, 0.01]))[:, 0]
    (exact,) = meta_grad(problem, solver, mc.Implicit("exact"), jnp.array(theta), task)
    # The simplex is sqrt(eps) from the minimum, and the slope by theta, -2 (phi - theta), twice
    # that, over beta. The nudge itself: of the order beta^2, by Richardson, with a factor 2.
    tol = 20 * np.sqrt(EPS) / 0.02 + 2 * abs(coarse - fine) / (1 - 1 / 4)
    assert abs(estimate - exact) < tol < 0.02 * abs(exact)


def test_a_simplex_that_does_not_converge_says_so():
    with pytest.raises(ArithmeticError, match="max_values: no convergence in 20"):
        external.nelder_mead(max_values=20)(lambda x: float(np.sum(x**2)), np.ones(2))
    with pytest.raises(ValueError, match="tol: must be positive"):
        external.nelder_mead(tol=0.0)


# Tasks side by side. In module scope, though loky would take closures too.

TASKS = [3.0, 1.0, float("nan"), -1.0, 2.0]


def pull_solve(theta, task, beta, start):
    if task < 0:
        raise RuntimeError("no data")
    return (task + theta) / (2 + beta)


def pull_inner(phi, theta, task):
    return (phi - task) ** 2 + (phi - theta) ** 2


PULL = external.Learner(pull_solve, pull_inner, lambda phi, theta, task: phi**2)
RULE = mc.Contrastive(beta=1e-3)


def check_mean(mean):
    each = [external.meta_gradient(PULL, 1.0, task, RULE) for task in (3.0, 1.0, 2.0)]
    assert mean.value == pytest.approx(np.mean([meta.value for meta in each]), rel=10 * EPS)
    with joblib.parallel_config("sequential"):
        assert mean == external.mean_meta_gradient(PULL, 1.0, TASKS, RULE)
    assert mean.by_theta == pytest.approx(np.mean([meta.by_theta for meta in each]), rel=10 * EPS)
    assert mean.aux == [meta.aux for meta in each]
    assert mean.failed == [
        (2, "its value or gradient is not finite"),
        (3, "RuntimeError: no data"),
    ]


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_failed_tasks_are_left_out_and_counted(n_jobs):
    with joblib.parallel_config("loky"):
        check_mean(external.mean_meta_gradient(PULL, 1.0, TASKS, RULE, n_jobs=n_jobs))


@pytest.mark.thorough
def test_tasks_on_a_dask_cluster():
    where = replace(PULL, outer=lambda phi, theta, task: float(os.getpid()))
    settings = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
    with (
        LocalCluster(host="127.0.0.1", processes=True, **settings) as cluster,
        Client(cluster) as client,
        joblib.parallel_config("dask"),
    ):
        check_mean(external.mean_meta_gradient(PULL, 1.0, TASKS, RULE, n_jobs=2))
        workers = set(client.run(os.getpid).values())
        used = {aux["outer"] for aux in external.mean_meta_gradient(where, 1.0, TASKS, RULE).aux}
    assert used <= workers and os.getpid() not in workers


def test_no_task_or_none_that_is_learned():
    with pytest.raises(ValueError, match="tasks: there is none"):
        external.mean_meta_gradient(PULL, 1.0, [], RULE)
    with pytest.raises(DivergedError, match="first because RuntimeError: no data"):
        external.mean_meta_gradient(PULL, 1.0, [-1.0, float("nan")], RULE)


def test_an_absent_package_names_its_extra():
    with pytest.raises(ImportError, match=r"pip install 'metacontrast\[sklearn\]'"):
        optional("absent_package.part", extra="sklearn")


@pytest.mark.parametrize("name", ["torch", "optimistix"])
def test_without_its_package_the_extra_is_named(monkeypatch, name):
    for module in [module for module in sys.modules if module.startswith(f"metacontrast.{name}")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    with pytest.raises(ImportError, match=rf"pip install 'metacontrast\[{name}\]'"):
        importlib.import_module(f"metacontrast.{name}")
