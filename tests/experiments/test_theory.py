"""The theorems, measured: on digits, on a quadratic and on a network."""

import json
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import theory
from _theory_figures import draw_all, draw_errors, from_plain
from _theory_measure import EXPONENTS, Curves, both_sides, branches, exact_gradient, slopes
from _theory_problems import PROBLEMS
from jax.flatten_util import ravel_pytree
from problems import meta_grad, relative_error
from theory import METHODS

import metacontrast as mc
from metacontrast.report import figure

DIGITS = METHODS["digits"]


@cache
def case(name):
    if name == "digits":
        pytest.importorskip("sklearn")
    return PROBLEMS[name](0, METHODS[name].size)


@pytest.mark.parametrize(
    "name",
    [pytest.param(x, marks=pytest.mark.thorough if x == "digits" else ()) for x in PROBLEMS],
)
def test_both_sides_of_the_equilibrium_propagation_theorem(name):
    left, right = both_sides(case(name))
    assert left.size > 1
    # Central differences of 1e-4: 1e-8 times third derivatives, and round-off over 1e-4.
    assert np.linalg.norm(left - right) < 1e-5 * np.linalg.norm(right)


@pytest.mark.thorough
def test_on_digits_the_contrast_is_the_finite_difference_of_the_converged_problem():
    problem, theta, task = case("digits")
    solver, h = mc.newton_cg(1e-12, 100, 400), 1e-4

    def learned(theta):
        return problem.outer(mc.solve_inner(problem, solver, theta, task).phi, theta, task)

    differences = jax.jit(
        lambda steps: jax.lax.map(
            lambda e: (learned(theta + e) - learned(theta - e)) / 2 / h, steps
        )
    )(h * jnp.eye(theta.size))
    rule = mc.Contrastive(1e-3, "symmetric")
    contrast = meta_grad(problem, solver, rule, theta, task)
    assert relative_error(contrast, differences) < 1e-4


@pytest.mark.thorough
def test_on_digits_symmetric_beats_forward_tenfold_at_equal_cost():
    problem, theta, task = case("digits")
    _, exact = exact_gradient(case("digits"))
    optimizer, steps = optax.sgd(DIGITS.rate, DIGITS.momentum), 400
    free = mc.descend(optimizer, 800)
    # Both take 800 nudged steps in all, and in both the phases have converged.
    rules = {"forward": (1, 2 * steps), "symmetric": (2, steps)}

    @jax.jit
    def errors(betas):
        def error(scheme, nudged_steps, beta):
            nudged = mc.descend(optimizer, nudged_steps)
            rule = mc.Contrastive(beta, scheme, nudged=nudged)
            grad = mc.meta_gradient(problem, free, rule)(theta, task).by_theta
            return jnp.linalg.norm(grad - exact) / jnp.linalg.norm(exact)

        return {
            scheme: jax.lax.map(lambda beta, s=scheme, n=n: error(s, n, beta), betas)
            for scheme, (_, n) in rules.items()
        }

    found = errors(jnp.logspace(-7, -2, 6))
    # At the same beta, down to where round-off rules; and each at its best.
    assert jnp.all(10 * found["symmetric"][1:] < found["forward"][1:])
    assert 10 * jnp.min(found["symmetric"]) < jnp.min(found["forward"])


@pytest.mark.thorough
def test_the_experiment_measures_the_exponents_of_the_theory(start, tmp_path, capsys):
    words = ("--method", "quadratic", "--quick", "--out", tmp_path / "run")
    assert start(theory, *words) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    for row in result["quantities"]:
        # Slopes over a few decades of a grid of four betas a decade.
        assert row["measured"] == pytest.approx(row["expected"], abs=0.1), row
    assert len(result["quantities"]) == 20 and result["estimators"] == []
    assert result["value"] < 0.05 and result["diverged"] == 0
    for name in ("error-against-beta", "best-against-delta"):
        assert (tmp_path / "run" / f"{name}.png").stat().st_size > 0
    assert "two sides of the EP theorem" in capsys.readouterr().out
    assert start(theory, *words) == 2
    assert "already holds this run" in capsys.readouterr().err


def test_meta_steps_are_refused(start, tmp_path, capsys):
    assert start(theory, "--steps", 3, "--out", tmp_path / "run") == 2
    assert "steps: theory takes no meta-steps" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


BETAS = np.logspace(-3, 0, 13)


def curves(errors, learner="descent", scheme="symmetric"):
    """Of two accuracies, the second a tenth of the first."""
    errors = np.stack([10 * errors, errors])
    return Curves(learner, scheme, BETAS, np.array([1e-2, 1e-3]), errors)


def test_where_the_first_beta_is_the_best_the_rest_is_measured_and_drawn(tmp_path):
    """So it is where nothing is divided by beta, and the nudge's own error rules everywhere."""
    rising = curves(1e-7 + 1e-2 * BETAS**2)
    assert rising.errors.argmin(1).tolist() == [0, 0]
    rows = {row.quantity.split(": ")[1]: row.measured for row in slopes("network", rising)}
    assert rows["error by beta, above the best"] == pytest.approx(2, abs=0.05)
    assert np.isnan(rows["best error by delta"])  # of two accuracies
    crude = np.full(13, 1e-2)
    crude[-3:] = 1e20  # it diverges before a power of beta shows
    below, above = [row.measured for row in slopes("network", curves(crude))[:2]]
    assert below == pytest.approx(0, abs=1e-9) and np.isnan(above)
    four = [curves(rising.errors[1], *kind) for kind in EXPONENTS]
    path = figure(tmp_path / "errors", lambda axes: draw_errors(four, axes), 2, 2)
    assert path.stat().st_size > 0


BROKEN = {
    "the first is the best": lambda errors: 1e-3 + errors,
    "the last is the best": lambda errors: 1 / (1e3 * BETAS),
    "all are the same": lambda errors: 0 * errors + 0.1,
    "none was reached": lambda errors: np.nan * errors,
    "all are infinite": lambda errors: np.inf + errors,
    "some are missing": lambda errors: np.where(BETAS < 0.1, errors, np.nan),
    "one is left": lambda errors: np.where(BETAS[4] == BETAS, errors, np.nan),
    "some are zero": lambda errors: np.where(BETAS < 0.1, errors, 0),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_whatever_a_seed_does_its_exponents_are_found_or_not_measured(kind):
    """Three accuracies of every learner, of which the last is like that, or all are."""
    good = 1e-6 / BETAS + 1e-2 * BETAS
    bad = BROKEN[kind](good)
    for errors in (np.stack([100 * good, 10 * good, bad]), np.stack([bad] * 3)):
        for pair in EXPONENTS:
            c = Curves(*pair, BETAS, np.array([1e-2, 1e-3, 0]), errors)
            assert len(slopes("network", c)) in (3, 4)
            suggested = c._replace(suggested_error=np.full(3, 0.1))
            assert theory.times_best(METHODS["network"], suggested).expected == 1


DRAWN = [kind for kind in BROKEN if kind != "some are zero"]  # of which a single point is left


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=() if kind == "none was reached" else pytest.mark.thorough)
        for kind in DRAWN
    ],
)
def test_whatever_a_seed_does_is_drawn(kind, tmp_path):
    """As it is read from a result, where what is not finite is missing."""
    errors = np.stack([BROKEN[kind](1e-6 / BETAS + 1e-2 * BETAS)] * 2)
    four = [Curves(*pair, BETAS, np.array([1e-2, 1e-3]), errors) for pair in EXPONENTS]
    kept = json.loads(json.dumps([theory.plain(c._asdict()) for c in four]))
    draw_all("network", {"curves": kept, "estimators": []}, tmp_path)
    assert (tmp_path / "best-against-delta.png").stat().st_size > 0


def test_where_nothing_rises_both_branches_are_told_all_the_same():
    below, above = branches(BETAS, np.full(13, 0.1), 5)
    assert below.all() and not above.any()


@pytest.mark.thorough
def test_none_of_the_estimators_that_are_compared_is_refused():
    problem, theta, task = case("network")
    rules = theory.estimators({"forward": 0.1, "symmetric": 0.1}, rate=0.1, steps=20)
    for rule in rules.values():
        gradient = mc.meta_gradient(problem, mc.descend(optax.sgd(0.1), 2), rule)
        jax.eval_shape(gradient, theta, task, jax.random.key(0))
    assert len(rules) == 10


def test_curves_come_back_from_a_result():
    there = curves(1e-7 + 1e-2 * BETAS**2)
    back = from_plain(json.loads(json.dumps(theory.plain(there._asdict()))))
    jax.tree.map(np.testing.assert_array_equal, there, back)
    missing = theory.plain({"errors": np.array([[1.0, np.nan]]), "scheme": "forward"})
    assert missing == {"errors": [[1.0, None]], "scheme": "forward"}


def test_what_was_not_measured_is_none_in_a_result():
    line = {"quantity": "slope", "measured": float("nan"), "expected": 1, "n": 2}
    assert theory.plain(line) == {"quantity": "slope", "measured": None, "expected": 1, "n": 2}


def test_the_exact_gradient_is_that_of_the_minimum():
    problem, theta, task = case("network")
    phi, _ = exact_gradient(case("network"))
    slope = jax.grad(mc.Loss(problem, theta, task))(phi)
    assert float(jnp.linalg.norm(ravel_pytree(slope)[0])) < 1e-12
