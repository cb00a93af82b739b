"""The theorems, measured: on digits, on a quadratic and on a network."""

import json
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from problems import relative_error

import metacontrast as mc
from metacontrast.experiments import _theory_measure as measure
from metacontrast.experiments import theory
from metacontrast.experiments._theory_problems import PROBLEMS


@cache
def part(name):
    if name == "digits":
        pytest.importorskip("sklearn")
    return PROBLEMS[name](0)


@pytest.mark.parametrize("name", PROBLEMS)
def test_both_sides_of_the_equilibrium_propagation_theorem(name):
    left, right = measure.both_sides(part(name))
    assert left.size > 1
    # Central differences of 1e-4: 1e-8 times third derivatives, and round-off over 1e-4.
    assert np.linalg.norm(left - right) < 1e-5 * np.linalg.norm(right)


def test_on_digits_the_contrast_is_the_finite_difference_of_the_converged_problem():
    problem, theta, task, *_ = part("digits")
    solve, h = mc.newton_cg(1e-12, 100, 400), 1e-4

    def learned(theta):
        return problem.outer(mc.learn(problem, solve, theta, task).phi, theta, task)

    differences = jax.jit(
        lambda steps: jax.lax.map(
            lambda e: (learned(theta + e) - learned(theta - e)) / 2 / h, steps
        )
    )(h * jnp.eye(theta.size))
    rule = mc.Contrastive(1e-3, "symmetric")
    found = jax.jit(lambda: rule.value_and_grad(problem, solve, theta, task)[1])()
    assert relative_error(found, differences) < 1e-4


def test_on_digits_symmetric_beats_forward_tenfold_at_equal_cost():
    chosen = part("digits")
    problem, theta, task, rate, *_ = chosen
    _, exact = measure.exactly(chosen)
    free, steps = mc.descend(optax.sgd(rate, measure.MOMENTUM), 800), 400
    # Both take 800 nudged steps in all, and in both the phases have converged.
    rules = {"forward": (1, 2 * steps), "symmetric": (2, steps)}

    @jax.jit
    def errors(betas):
        def error(scheme, nudged_steps, beta):
            nudged = mc.descend(optax.sgd(rate, measure.MOMENTUM), nudged_steps)
            rule = mc.Contrastive(beta, scheme, nudged=nudged)
            grad = rule.value_and_grad(problem, free, theta, task)[1]
            return jnp.linalg.norm(grad - exact) / jnp.linalg.norm(exact)

        return {
            scheme: jax.lax.map(lambda beta, s=scheme, n=n: error(s, n, beta), betas)
            for scheme, (_, n) in rules.items()
        }

    found = errors(jnp.logspace(-7, -2, 6))
    # At the same beta, down to where round-off rules; and each at its best.
    assert jnp.all(10 * found["symmetric"][1:] < found["forward"][1:])
    assert 10 * jnp.min(found["symmetric"]) < jnp.min(found["forward"])


def test_the_experiment_measures_the_exponents_of_the_theory(tmp_path):
    with jax.enable_x64(True):
        rows = theory.run("quadratic", 0, tmp_path / "run", quick=True)
    for row in rows:
        # Slopes over a few decades of a grid of six betas a decade.
        assert row.measured == pytest.approx(row.expected, abs=0.1), row
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert [row["quantity"] for row in result["rows"]] == [row.quantity for row in rows]
    assert result["value"] < 0.05
    with pytest.raises(ValueError, match="already holds this run"):
        theory.run("quadratic", 0, tmp_path / "run", quick=True)


def test_the_exact_gradient_is_that_of_the_minimum():
    chosen = part("network")
    phi, _ = measure.exactly(chosen)
    slope = jax.grad(chosen.problem.loss(chosen.theta, chosen.task))(phi)
    assert float(jnp.linalg.norm(ravel_pytree(slope)[0])) < 1e-12
