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
from problems import EPS, closed_form, meta_grad, newton, random_ridge, ridge, ridge_solution

import metacontrast as mc
from metacontrast import external
from metacontrast.train import DivergedError

RULES = {
    "forward": mc.Contrastive(beta=0.01),
    "order 2": mc.Contrastive(beta=0.01, order=2),
    "symmetric": mc.Contrastive(beta=0.01, scheme="symmetric"),
    "away": mc.Contrastive(beta=-0.01),
}


def foreign(problem):
    """The random ridge of `problems`, as a learner that hands NumPy arrays about."""
    return external.Learner(
        solve=lambda theta, task, beta, start: jax.device_get(ridge_solution(theta, task, beta)[0]),
        inner=problem.inner,
        outer=problem.outer,
        slope=lambda phi, theta, task, beta: jax.device_get(
            jax.grad(lambda theta: problem.loss(theta, task, beta)(phi))(theta)
        ),
    )


@pytest.mark.parametrize("name", RULES)
def test_it_is_the_rule_of_jax(name):
    theta, task = random_ridge(0)
    (value, told), grad = RULES[name].value_and_grad(
        ridge, closed_form(ridge_solution), theta, task
    )
    (there, said), found = external.value_and_grad(foreign(ridge), theta, task, RULES[name])
    assert there == pytest.approx(float(value), rel=1e3 * EPS)
    for key in said:
        np.testing.assert_allclose(said[key], told[key], rtol=1e-9, err_msg=key)
    # Each of the few slopes, about 1, is rounded by some tens of eps, and divided by beta.
    size = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(theta))
    atol = 1e3 * EPS * max(1.0, size) / 0.01
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol, rtol=1e-10), found, grad)


def test_numerical_slopes_stand_in_for_analytic_ones():
    theta, task = random_ridge(1)
    learner = foreign(ridge)
    blind = external.Learner(learner.solve, learner.inner, learner.outer)
    (_, said), exact = external.value_and_grad(learner, theta, task, RULES["symmetric"])
    _, found = external.value_and_grad(blind, theta, task, RULES["symmetric"])
    # Two slopes, each with an error of 4e-11 of the loss' scale (see numerical_slope), over 2 beta.
    scale = max(1.0, *said["nudged_inner"], *said["nudged_outer"])
    atol = 10 * 4e-11 * scale / 0.01
    assert atol < 1e-3 * max(np.abs(leaf).max() for leaf in jax.tree.leaves(exact))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol), found, exact)


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

    def learner(self, **others):
        def solve(theta, task, beta, start):
            self.calls.append((beta, start))
            return np.array(len(self.calls), float)

        loss = lambda phi, theta, task: float(phi)
        return external.Learner(solve, loss, loss, lambda *_: np.array(1.0))


def test_nudged_phases_start_at_phi_0():
    record = Recorded()
    external.value_and_grad(record.learner(), 0.0, None, RULES["order 2"])
    assert record.calls == [(0.0, None), (0.01, 1.0), (0.02, 1.0)]


def test_control_runs_the_free_phase_again():
    record = Recorded()
    rule = mc.Contrastive(beta=0.5, control=True)
    external.value_and_grad(record.learner(), 0.0, None, rule)
    assert record.calls == [(0.0, None), (0.0, 1.0), (0.5, 1.0)]


def test_nudged_phases_may_be_solved_otherwise():
    free, nudged = Recorded(), Recorded()
    rule = mc.Contrastive(beta=0.5, nudged=nudged.learner().solve)
    external.value_and_grad(free.learner(), 0.0, None, rule)
    assert (free.calls, nudged.calls) == ([(0.0, None)], [(0.5, 1.0)])


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (mc.Contrastive(beta="auto"), "beta: 'auto' needs a learner in JAX"),
        (mc.Contrastive(0.1, "holomorphic"), "scheme: learners outside JAX"),
        (mc.Contrastive(0.1, carry=True), "carry: learners outside JAX"),
    ],
)
def test_what_needs_jax_is_refused(rule, message):
    with pytest.raises(ValueError, match=message):
        external.value_and_grad(Recorded().learner(), 0.0, None, rule)


# A black box: Rosenbrock's valley, bent towards theta. No closed form; Newton finds its minimum.


def valley(phi, theta, task):
    return (phi[0] - theta[0]) ** 2 + 5 * (phi[1] - task * phi[0] ** 2) ** 2 + phi[1] ** 2


def target(phi, theta, task):
    return (phi[0] - 1.5) ** 2 + (phi[1] - 0.5) ** 2


def test_a_black_box_without_any_gradient():
    theta, task, rule = jnp.array([1.0]), 0.8, mc.Contrastive(0.02, "symmetric")
    learner = external.black_box(
        lambda theta, task: np.zeros(2), valley, target, external.nelder_mead()
    )
    (_, _), found = external.value_and_grad(learner, theta, task, rule)
    problem = mc.Problem(lambda theta, task: jnp.zeros(2), valley, target)
    contrast = lambda beta: meta_grad(problem, newton(20), replace(rule, beta=beta), theta, task)
    exact = meta_grad(problem, newton(20), mc.Implicit("exact"), theta, task)
    # The simplex is sqrt(eps) from the minimum, and the slope by theta, -2 (phi - theta), twice
    # that, over beta. The nudge itself: of the order beta^2, by Richardson, with a factor 2.
    nudge = 2 * abs(contrast(0.02)[0] - contrast(0.01)[0]) / (1 - 1 / 4)
    assert abs(found[0] - exact[0]) < 20 * np.sqrt(EPS) / 0.02 + nudge
    assert 20 * np.sqrt(EPS) / 0.02 + nudge < 0.02 * abs(exact[0])


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
    each = [external.value_and_grad(PULL, 1.0, task, RULE) for task in (3.0, 1.0, 2.0)]
    assert mean.value == pytest.approx(np.mean([value for (value, _), _ in each]), rel=10 * EPS)
    with joblib.parallel_config("sequential"):
        assert mean == external.meta_gradient(PULL, 1.0, TASKS, RULE)
    assert mean.grad == pytest.approx(np.mean([grad for _, grad in each]), rel=10 * EPS)
    assert [said["outer"] for said in mean.told] == [value for (value, _), _ in each]
    assert mean.failed == [
        (2, "its value or gradient is not finite"),
        (3, "RuntimeError: no data"),
    ]


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_failed_tasks_are_left_out_and_counted(n_jobs):
    with joblib.parallel_config("loky"):
        check_mean(external.meta_gradient(PULL, 1.0, TASKS, RULE, n_jobs=n_jobs))


def test_tasks_on_a_dask_cluster():
    where = replace(PULL, outer=lambda phi, theta, task: float(os.getpid()))
    settings = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
    with (
        LocalCluster(host="127.0.0.1", processes=True, **settings) as cluster,
        Client(cluster) as client,
        joblib.parallel_config("dask"),
    ):
        check_mean(external.meta_gradient(PULL, 1.0, TASKS, RULE, n_jobs=2))
        workers = set(client.run(os.getpid).values())
        used = {said["outer"] for said in external.meta_gradient(where, 1.0, TASKS, RULE).told}
    assert used <= workers and os.getpid() not in workers


def test_no_task_or_none_that_is_learned():
    with pytest.raises(ValueError, match="tasks: there is none"):
        external.meta_gradient(PULL, 1.0, [], RULE)
    with pytest.raises(DivergedError, match="first because RuntimeError: no data"):
        external.meta_gradient(PULL, 1.0, [-1.0, float("nan")], RULE)


def test_an_absent_package_names_its_extra():
    with pytest.raises(ImportError, match=r"pip install 'metacontrast\[sklearn\]'"):
        external._optional.optional("absent_package.part")


def test_without_torch_the_extra_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("metacontrast.torch")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    with pytest.raises(ImportError, match=r"pip install 'metacontrast\[torch\]'"):
        importlib.import_module("metacontrast.torch")
