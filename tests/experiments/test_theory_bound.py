"""The error bound on losses that are not quadratic: its constants, and what each term is for."""

import json
from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import theory_bound
from _theory_bound import LINKS, Regression, Theta, constants, draw, problem, with_slope
from _theory_measure import CONVERGED
from problems import EPS
from theory_bound import METHODS, SLACK, largest, summaries

import metacontrast as mc
from metacontrast.accuracy import quadratic_constants

compiled_constants = jax.jit(constants, static_argnums=0)
FEW = dict(problems=20, exponents=(-3, 2), betas=6, deltas=(0.0, 1e-4, 0.1))
SLOW = pytest.mark.thorough
ALL = [pytest.param(x, marks=() if x.startswith("log-cosh") else SLOW) for x in METHODS]


@cache
def found(method):
    """Errors and bounds of 20 problems: six nudges, nine pairs of phases."""
    s = replace(METHODS[method], **FEW)
    return s, theory_bound.measured(s)


@pytest.mark.parametrize("method", ALL)
def test_no_error_exceeds_the_bound(method):
    s, errors = found(method)
    assert errors.plain.shape == (20, 6, 9)
    assert np.all(errors.plain <= errors.bound * (1 + SLACK))
    # It says something: of phases that err, and of a nudge between exact ones.
    of = summaries(s, errors)
    assert of["worst"] > 0.9 and of["worst_exact"] > 0.01


@pytest.mark.parametrize("method", [x for x in ALL if "coupled" in (x.values[0])])
def test_without_b_out_the_bound_fails_where_theta_is_in_the_outer_loss(method):
    s, errors = found(method)
    assert np.all(largest(errors.plain, errors.without) > 10)
    # By the outer loss's own part: taken where the free phase ended, exactly, it does not err.
    is_exact = np.repeat([delta == 0 for delta in s.deltas], 3)
    at_free, without = errors.at_free[..., is_exact], errors.without[..., is_exact]
    assert np.all(at_free <= without * (1 + SLACK))


@pytest.mark.parametrize("name", LINKS)
def test_the_suprema_of_a_link_are_attained_and_not_exceeded(name):
    link, u = LINKS[name], jnp.linspace(-30, 30, 6001)
    slope = jax.grad(link.f)
    for f, most in (
        (slope, link.slope),
        (jax.grad(slope), link.curvature),
        (jax.grad(jax.grad(slope)), link.bend),
    ):
        largest = float(jnp.max(jnp.abs(jax.vmap(f)(u))))
        # A grid of 0.01 misses a maximum of curvature below 10 by at most 10 (0.005)^2 / 2, and the
        # supremum of |f'| of pseudo-huber is reached at infinity, up to u^-2 / 2.
        assert most * (1 - 1e-3) < largest <= most * (1 + 8 * EPS)


def test_the_constants_are_those_of_quadratics_where_the_losses_are_nearly_so():
    """Examples of no size leave the pulls alone, of which `accuracy` knows the constants."""
    theta, task = draw(jax.random.key(0), 4, 3, 2.0)
    nothing = jax.tree.map(lambda leaf: 0.0 * leaf, (task.train, task.test))
    task = task._replace(train=nothing[0], test=nothing[1])
    learner, phi_0 = problem("softplus"), theta.omega
    for ours, known in zip(
        compiled_constants("softplus", theta, task, phi_0),
        quadratic_constants(learner, theta, task),
        strict=True,
    ):
        assert float(ours) == pytest.approx(float(known), rel=1e4 * EPS)


def lipschitz(f, points):
    """The largest ratio of changes of f between points, in spectral norm."""
    ratios = []
    values = [np.asarray(f(x)) for x in points]
    for (x, fx), (y, fy) in zip(
        zip(points, values, strict=True),
        zip(points[1:], values[1:], strict=True),
        strict=False,
    ):
        ratios.append(np.linalg.norm(fx - fy) / np.linalg.norm(x - y))
    return max(ratios)


def test_slopes_by_theta_change_no_faster_than_b_in_and_b_out():
    theta, task = draw(jax.random.key(1), 6, 3, 3.0)
    learner, start = problem("log-cosh"), jnp.zeros(3)
    b_in, b_out, _ = compiled_constants("log-cosh", theta, task, start)
    points = jax.random.normal(jax.random.key(2), (40, 3)) * jnp.logspace(-2, 1, 40)[:, None]
    for loss, most in ((learner.inner, b_in), (learner.outer, b_out)):
        by_theta = jax.jit(jax.grad(loss, 1))
        flat = lambda phi, f=by_theta: np.concatenate([*f(phi, theta, task)])
        assert 0.5 * most < lipschitz(flat, points) <= most * (1 + 1e4 * EPS)


def test_a_shift_leaves_the_outer_slope_that_is_asked_for():
    theta, task = draw(jax.random.key(3), 5, 3, 10.0)
    task = with_slope("softplus", theta, task, 1e-3)
    assert isinstance(task, Regression) and isinstance(theta, Theta)
    learner = problem("softplus")
    phi_0 = mc.solve_inner(learner, CONVERGED, theta, task).phi
    g = jax.grad(learner.outer)(phi_0, theta, task)
    assert float(jnp.linalg.norm(g)) == pytest.approx(1e-3, rel=1e-9)


def test_a_run_says_what_part_of_its_bound_each_problem_errs_by(tmp_path, capsys):
    s = replace(METHODS["log-cosh-coupled"], **FEW, out=tmp_path)
    result = theory_bound.run(s)  # by the program of the tests above
    assert json.loads((tmp_path / "result.json").read_text()) == result
    assert result["n_tasks"] == 20 and 0.9 < result["value"] <= result["worst"] <= 1 + SLACK
    assert result["beyond_without"] == 1 and result["worst_at_free"] <= 1 + SLACK
    assert "without B_out" in capsys.readouterr().out
    with pytest.raises(ValueError, match="steps: theory-bound takes no meta-steps"):
        theory_bound.run(replace(s, steps=1))
