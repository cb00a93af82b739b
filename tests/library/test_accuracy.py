"""compare: errors, and costs that can be counted by hand."""

import jax
import jax.numpy as jnp
import optax
import pytest
from problems import (
    meta_grad,
    quadratic,
    quadratic_hypergradient,
    random_quadratic,
    random_ridge,
    relative_error,
    ridge,
    ridge_hypergradient,
)

import metacontrast as mc
from metacontrast._loss import OuterNudge
from metacontrast.accuracy import compare, print_records
from metacontrast.accuracy._compare import Record

STEPS = 30
# What each evaluates, of gradients and of Hessian-vector products, with a learner of 30 steps. The
# example of `compare` counts those of a symmetric difference and of FirstOrder.
COUNTS = {
    "forward": (mc.Contrastive(0.1), 2 * STEPS, 0),
    "third order": (mc.Contrastive(0.1, "forward", 3), 4 * STEPS, 0),
    "control": (mc.Contrastive(0.1, control=True), 3 * STEPS, 0),
    "holomorphic": (mc.Contrastive(0.1, "holomorphic"), 4 * STEPS, 0),
    "linear": (mc.Contrastive(0.1, "symmetric", nudge="linear"), 3 * STEPS, 0),
    "unrolled": (mc.Unrolled(), STEPS, STEPS),
    "remat": (mc.Unrolled(remat=True), 2 * STEPS, STEPS),
    "truncated": (mc.Unrolled(truncate=5), STEPS, 5),
    "cg": (mc.Implicit("cg", 4), STEPS, 4),
    "hessian-free": (mc.Implicit("cg", 4, hessian_free=True), STEPS + 2 * 4, 0),
    "neumann": (mc.Implicit("neumann", 7, rate=0.1), STEPS, 7),
    "identity": (mc.Implicit("identity"), STEPS, 0),
    "exact": (mc.Implicit("exact"), STEPS, 5),
    "evolution": (mc.Evolution(0.1, pairs=3), 6 * STEPS, 0),
}


def learned_by(steps):
    return mc.descend(optax.sgd(0.1), steps)


@pytest.fixture(scope="module")
def records():
    theta, task = random_quadratic(0)
    rules = {name: rule for name, (rule, _, _) in COUNTS.items()}
    exact, key = quadratic_hypergradient(theta, task), jax.random.key(0)
    costs = compare(rules, quadratic, learned_by(STEPS), theta, task, exact, key, repeats=1)
    return {record.name: record for record in costs}


@pytest.mark.parametrize("name", COUNTS)
def test_costs_are_those_counted_by_hand(records, name):
    _, gradients, products = COUNTS[name]
    assert (records[name].gradients, records[name].products) == (gradients, products)
    assert records[name].seconds > 0


def test_errors_and_cosines_are_of_the_estimates(records):
    theta, task = random_quadratic(0)
    exact = quadratic_hypergradient(theta, task)
    estimate = meta_grad(quadratic, learned_by(STEPS), mc.Contrastive(0.1), theta, task)
    assert records["forward"].error == pytest.approx(relative_error(estimate, exact))
    sizes = optax.tree.norm(estimate) * optax.tree.norm(exact)
    cosine = optax.tree.vdot(estimate, exact) / sizes
    assert records["forward"].cosine == pytest.approx(float(cosine))


def test_backpropagation_through_training_needs_memory_for_its_steps(records):
    theta, task = random_quadratic(0)
    exact = quadratic_hypergradient(theta, task)
    rules = {"forward": mc.Contrastive(0.1), "unrolled": mc.Unrolled()}
    longer = compare(rules, quadratic, learned_by(10 * STEPS), theta, task, exact, repeats=1)
    contrast, unrolled = (record.memory / records[record.name].memory for record in longer)
    assert contrast < 1.1
    assert unrolled > 5


def test_a_while_loop_counts_as_often_as_it_turns():
    theta, task = random_quadratic(0)
    exact = quadratic_hypergradient(theta, task)
    solver, rule = mc.until_converged(optax.sgd(0.1), 1e-6), mc.Contrastive(0.1)

    @jax.jit
    def steps():
        free = mc.solve_inner(quadratic, solver, theta, task)
        loss = mc.Loss(quadratic, theta, task, nudge=OuterNudge(0.1))
        return free.steps + solver(loss, free.phi).steps

    (record,) = compare({"": rule}, quadratic, solver, theta, task, exact, repeats=1)
    # One more gradient a phase, to see that it has not converged at the start.
    assert record.gradients == int(steps()) + 2


def test_each_estimator_may_have_its_own_solver_and_least_squares_count_passes_over_the_data():
    theta, task = random_ridge(0)
    exact = ridge_hypergradient(theta, task)
    solvers = {"few": learned_by(10), "many": learned_by(200)}
    rules = dict.fromkeys(solvers, mc.Contrastive(1e-3, "symmetric"))
    few, many = compare(rules, ridge, solvers, theta, task, exact, repeats=1)
    assert (few.gradients, many.gradients) == (30, 600)
    assert many.error < 1e-4 < few.error


def test_a_gauss_newton_step_counts_one_pass_over_the_data():
    # Of residuals that bend: those of a ridge have the same slopes at each step.
    residual = lambda phi, theta, example: jnp.tanh(phi @ example.x) - example.y
    inner = mc.LeastSquares(residual, lambda task: task.train, prior=lambda theta: theta)
    problem = mc.Problem(ridge.init, inner, ridge.outer)
    theta, task = random_ridge(0)
    rule = {"": mc.Contrastive(0.1, nudged=mc.gauss_newton(3))}
    # The error plays no part: anything of theta's shape is exact enough.
    (record,) = compare(rule, problem, mc.gauss_newton(5), theta, task, theta, repeats=1)
    assert (record.gradients, record.products) == (5 + 3, 0)


def test_bad_input_is_named():
    theta, task = random_quadratic(0)
    exact = quadratic_hypergradient(theta, task)
    solver = learned_by(2)
    rules = {"forward": mc.Contrastive(0.1)}
    with pytest.raises(ValueError, match="exact: must be like theta"):
        compare(rules, quadratic, solver, theta, task, exact.omega)
    with pytest.raises(ValueError, match="exact: is zero or not finite"):
        compare(rules, quadratic, solver, theta, task, jax.tree.map(jnp.zeros_like, exact))
    with pytest.raises(ValueError, match="solver: there is none for forward"):
        compare(rules, quadratic, {"backward": solver}, theta, task, exact)
    with pytest.raises(ValueError, match="repeats"):
        compare(rules, quadratic, solver, theta, task, exact, repeats=0)


def test_memory_that_no_compiler_tells_of_is_left_blank(capsys):
    rows = [Record(str(m), 0.1, 0.9, 3, 4, 0.5, m) for m in (None, 2048)]
    print_records(rows)
    _, blank, known = (line.split() for line in capsys.readouterr().out.splitlines())
    assert blank == ["None", "1.0e-01", "0.9000", "3", "4", "500.00"]
    assert known == ["2048", *blank[1:], "2"]


def test_the_table_has_a_row_for_each(records, capsys):
    print_records(records.values(), "costs")
    title, head, *rows = capsys.readouterr().out.splitlines()
    assert title == "costs" and head.split()[:3] == ["estimator", "relative", "error"]
    assert [row[: len(name)] for row, name in zip(rows, COUNTS, strict=True)] == list(COUNTS)
    # Right-justified below their titles.
    assert len({len(line.rstrip()) for line in (head, *rows)}) == 1
