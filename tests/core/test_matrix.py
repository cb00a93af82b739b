"""Every estimator and kind of nudge with every solver: a number held against theory, or an error.

The rows are estimators, the columns solvers. A column is compiled once, with all of its rows in one
program; its cells are then compared with Newton's method and dense implicit differentiation, on a
task that is quadratic and on one that is not.
"""

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from matrix_problem import (
    RATE,
    START,
    TASKS,
    THETA,
    Added,
    combined,
    line,
    minimiser,
    outer_slope,
    problem,
    pulled_back,
    sampled,
    sensitivities,
    truth,
    unravel,
    written,
)
from problems import EPS

import metacontrast as mc

BETA, LENGTH, DAMPING, SIGMA, PAIRS = 0.02, 0.05, 0.3, 0.05, 3
SECANT = 1e-7  # what differences of gradients leave of a displacement of LENGTH
KEY = jax.random.key(5, impl="unsafe_rbg")  # which compiles fastest

# Rows. Contrasts have the nodes and weights of their stencil beside them, in units of beta. Higher
# orders, and negative betas, are in test_contrastive.py: no solver knows of them.

FORWARD, SYMMETRIC = ([0, 1], [-1, 1]), ([-1, 1], [-1 / 2, 1 / 2])
CIRCLE = ([1, 1j, -1], [1 / 4, -1j / 2, -1 / 4])
CONTRASTS = {
    "forward": (mc.Contrastive(BETA), FORWARD),
    "symmetric": (mc.Contrastive(BETA, "symmetric"), SYMMETRIC),
    "holomorphic": (mc.Contrastive(BETA, "holomorphic"), CIRCLE),
    "control": (mc.Contrastive(BETA, control=True), FORWARD),
    "linear forward": (mc.Contrastive(LENGTH, nudge="linear"), FORWARD),
    "linear symmetric": (mc.Contrastive(LENGTH, "symmetric", nudge="linear"), SYMMETRIC),
    "linear control": (mc.Contrastive(LENGTH, nudge="linear", control=True), FORWARD),
    "linear damped": (
        mc.Contrastive(LENGTH, "symmetric", nudge="linear", damping=DAMPING),
        SYMMETRIC,
    ),
    "linear holomorphic": (mc.Contrastive(LENGTH, "holomorphic", nudge="linear"), CIRCLE),
    "secant": (
        mc.Contrastive(LENGTH, "symmetric", nudge="linear", nudged=mc.secant_cg(6)),
        SYMMETRIC,
    ),
}
IMPLICIT = {
    "implicit cg": mc.Implicit("cg"),
    "implicit neumann": mc.Implicit("neumann", 100, rate=RATE),
    "implicit identity": mc.Implicit("identity"),
    "implicit exact": mc.Implicit("exact"),
    "implicit hessian-free": mc.Implicit("cg", 12, hessian_free=True),
}
TRAJECTORIES = {
    "trajectory": mc.Trajectory(),
    "trajectory, exact": mc.Trajectory("exact", keep="sqrt"),
}
UNROLLED = {
    "unrolled": mc.Unrolled(),
    "truncated": mc.Unrolled(truncate=60),
    "rematerialised": mc.Unrolled(remat=True),
}
CRUDE = {
    "first order": mc.FirstOrder(),
    "Reptile": mc.Reptile(),
    "evolution": mc.Evolution(SIGMA, PAIRS),
}
ROWS = (
    {name: rule for name, (rule, _) in CONTRASTS.items()}
    | IMPLICIT
    | UNROLLED
    | TRAJECTORIES
    | CRUDE
)

# Columns


@dataclass(frozen=True)
class HeavyBall(mc.Solver):
    """A solver as a user would write it."""

    rate: float

    def init(self, loss, phi, memory=None):
        return mc.State(phi, jax.tree.map(jnp.zeros_like, phi) if memory is None else memory)

    def step(self, loss, state, t):
        is_complex = any(map(jnp.iscomplexobj, jax.tree.leaves(state.phi)))
        slope = jax.grad(loss, holomorphic=is_complex)(state.phi)
        speed = jax.tree.map(lambda v, g: 0.4 * v - self.rate * g, state.memory, slope)
        return mc.State(jax.tree.map(jnp.add, state.phi, speed), speed)


def newton(loss, phi):
    """A solver as a function."""
    x, unravel = ravel_pytree(phi)
    value = lambda x: loss(unravel(x))
    step = lambda _, x: x - jnp.linalg.solve(jax.hessian(value)(x), jax.grad(value)(x))
    return unravel(jax.lax.fori_loop(0, 8, step, x))


# A credit rule that is backpropagation, and says so in its own words.
RULE = mc.credit.credit_rule(line, lambda phi, x, error, key: error * x)


class Column(NamedTuple):
    solver: mc.Solver
    accuracy: float = 1e-11  # how far from their minimisers phases may stop
    quadratic: bool = False  # whether it learns quadratic tasks alone
    problem: mc.Problem = problem


COLUMNS = {
    "descend": Column(mc.descend(optax.sgd(RATE), 80)),
    "momentum, sampled": Column(
        mc.descend(optax.sgd(RATE / 2, 0.5, nesterov=True), 80), problem=sampled
    ),
    "until_converged": Column(mc.until_converged(optax.sgd(RATE), 1e-12)),
    # Differences of values show a line search where to go as long as |g| is above their root.
    "lbfgs": Column(mc.lbfgs(1e-9, 60), 1e-8),
    "anderson": Column(mc.anderson(RATE, 1e-12)),
    "newton_cg": Column(mc.newton_cg(1e-12)),
    "closed_form": Column(mc.closed_form(), quadratic=True),
    "gauss_newton": Column(mc.gauss_newton(20)),
    # Minimises the loss smoothed over sigma = 1e-4.
    "evolve": Column(mc.evolve(optax.sgd(0.15), 150, sigma=1e-4, pairs=16), 1e-7),
    "a class": Column(HeavyBall(RATE, steps=80, holomorphic=True, carries=True)),
    "a function": Column(mc.as_solver(newton)),
    "a credit rule": Column(
        mc.credit.with_credit_rule(mc.descend(optax.sgd(RATE), 80), written, RULE)
    ),
}


def gradient_of(row, column):
    """`(theta, z, key) -> MetaGradient`; by omega alone where the rule cannot learn log_lam."""
    solver, _, _, learner = COLUMNS[column]
    if row not in ("first order", "Reptile"):
        return mc.meta_gradient(learner, solver, ROWS[row])
    loss = mc.meta_loss(learner, solver, ROWS[row])

    def gradient(theta, z, key):
        at = lambda omega: loss(theta._replace(omega=omega), z, key)
        value, by_omega = jax.value_and_grad(at)(theta.omega)
        return mc.MetaGradient(value, mc.Synapse(by_omega, jnp.zeros_like(theta.log_lam)))

    return gradient


def refusal(row, column):
    """What does not go together, in words that name the two."""
    solver = COLUMNS[column].solver
    name = type(solver).__name__
    if "holomorphic" in row and not solver.holomorphic:
        return rf"solver: the holomorphic scheme .* {name}\("
    if row in UNROLLED and solver.tol is not None:
        return rf"solver: Unrolled .* {name}\(.*stops at a tolerance"
    if row in TRAJECTORIES and solver.tol is not None:
        return rf"solver: Trajectory .* {name}\(.*stops at a tolerance"
    if row in TRAJECTORIES and column in ("closed_form", "gauss_newton", "a function"):
        return rf"solver: Trajectory .* {name}\(.*asks more of its loss"
    return None


CELLS = [(column, row) for column in COLUMNS for row in ROWS]
# Of a row a solver sees the losses that it is to minimise, and a row of a solver where that has
# stopped. Rows that ask nothing of a solver but what one of these does (to go up as well as down,
# in complex numbers, along a line, to be differentiated through) are held in one column, and in
# the others by `make test-thorough`.
ASKING = {"symmetric", "holomorphic", "linear damped", "implicit exact", "unrolled"}


def is_repeat(column, row):
    return column in ("evolve", "a class") or (column != "descend" and row not in ASKING)


@pytest.mark.parametrize(("column", "row"), [cell for cell in CELLS if refusal(*reversed(cell))])
def test_what_does_not_go_together_names_both(column, row):
    solver, _, _, learner = COLUMNS[column]
    gradient = mc.meta_gradient(learner, solver, ROWS[row])
    with pytest.raises(TypeError, match=refusal(row, column)):
        jax.eval_shape(gradient, THETA, TASKS["bent"], KEY)


# Types


def typed(omega, log_lam, row, column):
    """The types of a gradient by theta, of which the parts have these types; by tracing alone."""
    theta = mc.Synapse(THETA.omega.astype(omega), THETA.log_lam.astype(log_lam))
    found = jax.eval_shape(gradient_of(row, column), theta, TASKS["bent"], KEY).by_theta
    return [found.omega.dtype, found.log_lam.dtype]


@pytest.mark.parametrize("row", ROWS)
def test_gradients_are_of_thetas_types(row):
    assert typed("bfloat16", "float32", row, "descend") == ["bfloat16", "float32"]


@pytest.mark.parametrize("column", [c for c in COLUMNS if c != "a credit rule"])
def test_solvers_take_weights_of_a_narrower_type_than_the_losses(column):
    assert typed("float32", "float64", "symmetric", column) == ["float32", "float64"]


# Cells


class Cell(NamedTuple):
    by_theta: mc.Synapse
    by_z: tuple | None
    ends: list | None  # of the phases, as vectors


@cache
def program(column, repeats):
    """`z -> {row: Cell}`, of all rows that go with the column, and are repeats or are not."""
    rows = [row for row in ROWS if not refusal(row, column) and is_repeat(column, row) == repeats]
    gradients = {row: gradient_of(row, column) for row in rows}

    def cell(meta):
        phases = meta.phases and [meta.phases.free, *(meta.phases.nudged or ())]
        ends = phases and [ravel_pytree(start.phi)[0] for start in phases]
        return Cell(meta.by_theta, meta.by_z, ends)

    return jax.jit(lambda z: {row: cell(f(THETA, z, KEY)) for row, f in gradients.items()})


@cache
def cells(column, task, repeats):
    return program(column, repeats)(TASKS[task])


def cell_of(row, column, task):
    return cells(column, task, is_repeat(column, row))[row]


def distance(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    return float(np.linalg.norm(ravel_pytree(a)[0] - ravel_pytree(b)[0]))


def phases(row, task, scale):
    """What each phase of a contrast adds to the inner loss; of the free phase nothing."""
    rule, (nodes, _) = CONTRASTS[row]
    nodes = scale * np.array(nodes)
    if rule.nudge == "outer":
        return [Added(b * rule.beta) for b in nodes]
    z, x = TASKS[task], minimiser(THETA, TASKS[task])
    v = outer_slope(x, THETA, z)
    line = v / jnp.linalg.norm(v)
    return [Added(0.0, b * rule.beta * line, rule.damping or 0.0, x) for b in nodes]


def on_the_tangent(theta, z, added):
    """As far along `dphi/dbeta` as the nudge is long."""
    x = minimiser(theta, z)
    hessian = jax.hessian(lambda x: problem.inner(unravel(x), theta, z))(x)
    return x - jnp.linalg.solve(hessian, added.line)


@cache
def exact_contrast(row, task, scale=1):
    """The contrast of phases that end at their minimisers; these, and the weights."""
    rule, (_, weights) = CONTRASTS[row]
    z, added = TASKS[task], phases(row, task, scale)
    ends = minimiser if rule.nudged is None else on_the_tangent
    xs = [ends(THETA, z, each) for each in added]
    weights = np.array(weights) / (scale * rule.beta)
    if rule.nudge == "outer":
        return combined(z, xs, weights, [each.outer for each in added]), xs, weights
    x = minimiser(THETA, z)
    weights = weights * float(jnp.linalg.norm(outer_slope(x, THETA, z)))
    # The direct derivative of the outer loss at phi_0 is a seventh of the terms, of weight 1.
    direct, indirect = combined(z, [x], [1.0], [1.0]), combined(z, [x], [1.0], [0.0])
    grads = combined(z, xs, weights, np.zeros(len(xs)))
    return jax.tree.map(lambda d, i, g: d - i + g, direct, indirect, grads), xs, weights


def check_contrast(row, column, task):
    found = cell_of(row, column, task)
    expected, xs, weights = exact_contrast(row, task)
    rule, (nodes, _) = CONTRASTS[row]
    # The free phase is a term where the stencil uses it, run once more by a control.
    ends = found.ends[len(found.ends) - len(nodes) :]
    missed = [float(jnp.linalg.norm(end - x)) for end, x in zip(ends, xs, strict=True)]
    assert max(missed) < max(COLUMNS[column].accuracy, 0.0 if rule.nudged is None else SECANT)
    # What phases that miss their minimisers by delta_k do to the contrast, to first order: `sum_k
    # |w_k| (B_in + |b_k| B_out) delta_k`, the theorem of the paper for any stencil. The constants
    # are those at the free minimiser, the nudged ones are near it: hence the factor 2.
    b_in, b_out, steep = sensitivities(task)
    outer = np.abs(nodes) * rule.beta * (rule.nudge == "outer")
    bound = 2 * float(np.abs(weights) @ ((b_in + np.abs(outer) * b_out) * np.array(missed)))
    # A linear nudge is along the slope at phi_0, and the direct derivative is taken there.
    bound += 2 * steep * float(jnp.linalg.norm(found.ends[0] - minimiser(THETA, TASKS[task])))
    # Round-off of losses of order 10 over beta.
    assert distance(found[:2], expected) < bound + 1e3 * EPS / abs(rule.beta)


def missed(column, task):
    """Where the free phase of this column stops, and how far that is from the minimiser."""
    x = cell_of("implicit exact", column, task).ends[0]
    return x, float(jnp.linalg.norm(x - minimiser(THETA, TASKS[task])))


def check_implicit(row, column, task):
    x, delta = missed(column, task)
    z, found = TASKS[task], cell_of(row, column, task)[:2]
    assert delta < COLUMNS[column].accuracy
    if row == "implicit identity":
        expected, floor = pulled_back(x, outer_slope(x, THETA, z), THETA, z), 1e-12
        assert distance(found, expected) < floor
        return
    # The linear solves end at 1e-12, central differences at eps^(2/3) of what they differentiate.
    floor = 1e-8 if row == "implicit hessian-free" else 1e-11
    assert distance(found, truth(task)) < floor + 2 * sensitivities(task)[2] * delta


def check_unrolled(row, column, task):
    # Both phi and its derivatives converge at the same rate, the latter times the number of steps;
    # 1e-10 is what is left of that after these. Perturbations are not small beside the accuracy.
    delta = max(missed(column, task)[1], COLUMNS[column].accuracy)
    bound = 1e-10 + 2 * sensitivities(task)[2] * delta
    if row == "trajectory":  # a central difference in float64, at best eps^(2/3) of what it is of
        bound += 1e-7
    found, expected = cell_of(row, column, task)[:2], truth(task)
    if column == "closed_form":  # which is no minimiser of the bent task next to the quadratic one
        found, expected = (
            (by_theta, by_z._replace(bend=0.0)) for by_theta, by_z in (found, expected)
        )
    assert distance(found, expected) < bound


def smoothed(z):
    """What `Evolution` draws and estimates, written out with Newton's method as the learner."""
    perturbing = jax.random.fold_in(KEY, 2**32 - 1)
    flat, back = ravel_pytree(THETA)
    total = np.zeros(flat.size)
    for e in jax.random.normal(perturbing, (PAIRS, flat.size)):
        thetas = [back(flat + s * e) for s in (SIGMA, -SIGMA)]
        ahead, behind = (problem.outer(unravel(minimiser(t, z)), t, z) for t in thetas)
        total += np.asarray((ahead - behind) * e) / (2 * SIGMA * PAIRS)
    return back(jnp.asarray(total))


def first_order(x, z):
    direct, _ = pulled_back(x, 0 * x, THETA, z)
    return direct._replace(
        omega=jax.tree.map(jnp.add, direct.omega, unravel(outer_slope(x, THETA, z)))
    )


# Of the rules that are biased on purpose: what they give at the minimiser x, by hand, and how fast
# that changes with x, at most. Outer curvatures are below 14, draws of `smoothed` shorter than 5.
BY_HAND = {
    "first order": (first_order, lambda task: 14 + sensitivities(task)[1]),
    "Reptile": (
        lambda x, z: jax.tree.map(jnp.zeros_like, THETA)._replace(omega=unravel(START - x)),
        lambda task: 1.0,
    ),
    "evolution": (
        lambda x, z: smoothed(z),
        lambda task: (
            5 / SIGMA * float(jnp.linalg.norm(outer_slope(minimum(task), THETA, TASKS[task])))
        ),
    ),
}


def minimum(task):
    return minimiser(THETA, TASKS[task])


def check_crude(row, column, task):
    found = cell_of(row, column, task)
    by_hand, speed = BY_HAND[row]
    assert found.by_z is None
    # The constants are those at the minimiser, hence the factor 2.
    error = distance(found.by_theta, by_hand(minimum(task), TASKS[task]))
    assert error < 2 * speed(task) * COLUMNS[column].accuracy


CHECKS = (
    dict.fromkeys(CONTRASTS, check_contrast)
    | dict.fromkeys(IMPLICIT, check_implicit)
    | dict.fromkeys(UNROLLED | TRAJECTORIES, check_unrolled)
    | dict.fromkeys(CRUDE, check_crude)
)


@pytest.mark.parametrize(
    ("column", "row"),
    [
        pytest.param(c, r, marks=pytest.mark.thorough if is_repeat(c, r) else ())
        for c, r in CELLS
        if not refusal(r, c)
    ],
)
def test_cell(column, row):
    CHECKS[row](row, column, "quadratic")
    if not COLUMNS[column].quadratic:
        CHECKS[row](row, column, "bent")


@pytest.mark.parametrize("row", CONTRASTS)
def test_the_error_that_is_the_nudges_alone_is_of_its_order(row):
    # So that what the cells are held against is the truth but for that.
    rule, _ = CONTRASTS[row]
    order = rule.order or {"forward": 1, "symmetric": 2, "holomorphic": 4}[rule.scheme]
    expected = truth("bent", rule.damping or 0.0)
    narrow, wide = (distance(exact_contrast(row, "bent", s)[0], expected) for s in (1, 2))
    # The next order is a tenth of the leading one at most, at these betas.
    assert wide / narrow == pytest.approx(2.0**order, rel=0.2)
    assert narrow < 0.2**order
