"""compare: errors, and costs that can be counted by hand."""

import jax
import jax.numpy as jnp
import optax
import pytest
from problems import (
    network,
    quadratic,
    quadratic_hypergradient,
    random_network,
    random_quadratic,
    random_ridge,
    relative_error,
    ridge,
    ridge_hypergradient,
)

import metacontrast as mc
from metacontrast.accuracy import compare, print_records

STEPS = 30
# What each evaluates, of gradients and of Hessian-vector products, with a learner of 30 steps.
COUNTS = {
    "forward": (mc.Contrastive(0.1), 2 * STEPS, 0),
    "symmetric": (mc.Contrastive(0.1, "symmetric"), 3 * STEPS, 0),
    "third order": (mc.Contrastive(0.1, "forward", 3), 4 * STEPS, 0),
    "control": (mc.Contrastive(0.1, control=True), 3 * STEPS, 0),
    "holomorphic": (mc.Contrastive(0.1, "holomorphic"), 4 * STEPS, 0),
    "unrolled": (mc.Unrolled(), STEPS, STEPS),
    "remat": (mc.Unrolled(remat=True), 2 * STEPS, STEPS),
    "truncated": (mc.Unrolled(truncate=5), STEPS, 5),
    "first order": (mc.FirstOrder(), STEPS, 0),
    "reptile": (mc.Reptile(), STEPS, 0),
    "cg": (mc.Implicit("cg", 4), STEPS, 4),
    "hessian-free": (mc.Implicit("cg", 4, hessian_free=True), STEPS + 2 * 4, 0),
    "neumann": (mc.Implicit("neumann", 7, rate=0.1), STEPS, 7),
    "identity": (mc.Implicit("identity"), STEPS, 0),
    "exact": (mc.Implicit("exact"), STEPS, 5),
    "evolution": (mc.Evolution(0.1, pairs=3), 6 * STEPS, 0),
}


@pytest.fixture(scope="module")
def records():
    theta, task = random_quadratic(0)
    found = compare(
        {name: rule for name, (rule, _, _) in COUNTS.items()},
        quadratic,
        mc.descend(optax.sgd(0.1), STEPS),
        theta,
        task,
        quadratic_hypergradient(theta, task),
        jax.random.key(0),
        repeats=1,
    )
    return {record.name: record for record in found}


@pytest.mark.parametrize("name", COUNTS)
def test_costs_are_those_counted_by_hand(records, name):
    _, gradients, products = COUNTS[name]
    assert (records[name].gradients, records[name].products) == (gradients, products)
    assert records[name].seconds > 0


def test_errors_and_cosines_are_of_the_estimates(records):
    theta, task = random_quadratic(0)
    exact = quadratic_hypergradient(theta, task)
    solve = mc.descend(optax.sgd(0.1), STEPS)
    found = mc.Contrastive(0.1).value_and_grad(quadratic, solve, theta, task)[1]
    assert records["forward"].error == pytest.approx(relative_error(found, exact))
    cosine = optax.tree.vdot(found, exact) / (optax.tree.norm(found) * optax.tree.norm(exact))
    assert records["forward"].cosine == pytest.approx(float(cosine))


def test_backpropagation_through_training_needs_memory_for_its_steps():
    theta, task = random_quadratic(0, size=20)
    exact = quadratic_hypergradient(theta, task)
    memory = {}
    for steps in (50, 500):
        solve = mc.descend(optax.sgd(0.1), steps)
        rules = {"contrast": mc.Contrastive(0.1), "unrolled": mc.Unrolled()}
        found = compare(rules, quadratic, solve, theta, task, exact, repeats=1)
        memory[steps] = {record.name: record.memory for record in found}
    assert memory[500]["contrast"] < 1.5 * memory[50]["contrast"]
    assert memory[500]["unrolled"] > 5 * memory[50]["unrolled"]


def test_a_while_loop_counts_as_often_as_it_turns():
    theta, task = random_quadratic(0)
    exact = quadratic_hypergradient(theta, task)
    solve = mc.until_converged(optax.sgd(0.1), 1e-6)
    free = mc.learn(quadratic, solve, theta, task)
    loss = quadratic.loss(theta, task, 0.1)
    nudged = solve(loss, free.phi)
    (record,) = compare({"": mc.Contrastive(0.1)}, quadratic, solve, theta, task, exact, repeats=1)
    # One more gradient a phase, to see that it has not converged at the start.
    assert record.gradients == int(free.steps + nudged.steps) + 2


def test_each_estimator_may_have_its_own_solver_and_least_squares_count_passes_over_the_data():
    theta, task = random_ridge(0)
    exact = ridge_hypergradient(theta, task)
    solvers = {"few": mc.descend(optax.sgd(0.1), 10), "many": mc.descend(optax.sgd(0.1), 200)}
    rules = dict.fromkeys(solvers, mc.Contrastive(1e-3, "symmetric"))
    few, many = compare(rules, ridge, solvers, theta, task, exact, repeats=1)
    assert (few.gradients, many.gradients) == (30, 600)
    assert many.error < 1e-4 < few.error


def test_a_gauss_newton_step_counts_one_pass_over_the_data():
    theta, task = random_network(0)
    rule = {"": mc.Contrastive(0.1, nudged=mc.gauss_newton(3))}
    # The error plays no part: anything of theta's shape is exact enough.
    (record,) = compare(rule, network, mc.gauss_newton(5), theta, task, theta, repeats=1)
    assert (record.gradients, record.products) == (5 + 3, 0)


def test_bad_input_is_named():
    theta, task = random_quadratic(0)
    exact = quadratic_hypergradient(theta, task)
    solve = mc.descend(optax.sgd(0.1), 2)
    rules = {"forward": mc.Contrastive(0.1)}
    with pytest.raises(ValueError, match="exact: must be like theta"):
        compare(rules, quadratic, solve, theta, task, exact["omega"])
    with pytest.raises(ValueError, match="exact: is zero or not finite"):
        compare(rules, quadratic, solve, theta, task, jax.tree.map(jnp.zeros_like, exact))
    with pytest.raises(ValueError, match="solve: there is none for forward"):
        compare(rules, quadratic, {"backward": solve}, theta, task, exact)
    with pytest.raises(ValueError, match="repeats"):
        compare(rules, quadratic, solve, theta, task, exact, repeats=0)


def test_the_table_has_a_row_for_each(records, capsys):
    print_records(records.values(), "costs")
    printed = capsys.readouterr().out
    assert all(name in printed for name in COUNTS)
