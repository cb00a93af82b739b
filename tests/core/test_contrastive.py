"""The contrastive rule against closed forms, and what each of its settings does."""

import math
from dataclasses import dataclass, replace
from functools import cache
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import (
    EPS,
    Paraboloids,
    closed_form,
    implicit_gradients,
    lazy,
    meta_grad,
    quadratic,
    quadratic_hypergradient,
    quadratic_solution,
    random_quadratic,
    random_ridge,
    record,
    relative_error,
    ridge,
    ridge_solution,
    slope,
)

import metacontrast as mc

# Orders of accuracy. All schemes and nine betas are one program for each problem.

SCHEMES = [("forward", p) for p in (1, 2, 3, 4)] + [("symmetric", p) for p in (2, 4)]
PROBLEMS = {
    "quadratic": (quadratic, random_quadratic, quadratic_solution),
    "ridge": (ridge, random_ridge, ridge_solution),
}


@cache
def contrasts(name):
    """`(theta, task, betas) -> {(scheme, order): gradients by theta and by the task}`."""
    problem, _, solution = PROBLEMS[name]

    def one(theta, task, beta):
        rules = {s: mc.Contrastive(beta, *s) for s in SCHEMES}
        found = {
            s: mc.meta_gradient(problem, closed_form(solution), rule)(theta, task)
            for s, rule in rules.items()
        }
        return {s: (meta.by_theta, meta.by_z) for s, meta in found.items()}

    return jax.jit(jax.vmap(one, (None, None, 0)))


@cache
def exact(name):
    problem, _, solution = PROBLEMS[name]
    return jax.jit(
        lambda theta, task: implicit_gradients(problem, theta, task, solution(theta, task)[0])
    )


def contrast(theta, task, beta, scheme=("forward", 1)):
    """Of the quadratic problem, by theta."""
    found = contrasts("quadratic")(theta, task, np.full(9, beta))[scheme][0]
    return jax.tree.map(lambda leaf: leaf[0], found)


def observed_order(name, scheme, theta, task, betas, part):
    expected = part(exact(name)(theta, task))
    found = part(contrasts(name)(theta, task, betas)[scheme])
    errors = [
        relative_error(jax.tree.map(lambda leaf, i=i: leaf[i], found), expected)
        for i in range(len(betas))
    ]
    return slope(betas, errors)


# Betas are in units of the nearest pole (see random_quadratic). At the top of each range the next
# term is a few per cent of the leading one, below the bottom round-off of EPS / beta begins to
# show; both stay within the 0.1 that is allowed.
LOWEST = {("forward", 1): 4e-4, ("forward", 2): 4e-4, ("forward", 3): 4e-4}


@pytest.mark.parametrize("by", ["theta", "z"])
@pytest.mark.parametrize("scheme", [s for s in SCHEMES if s != ("forward", 4)])
@pytest.mark.parametrize("name", PROBLEMS)
def test_order_in_beta(name, scheme, by):
    theta, task = PROBLEMS[name][1](0)
    lowest = LOWEST.get(scheme, 1e-3)
    betas = np.geomspace(lowest, 100 * lowest, 9)
    part = lambda grads: grads[("theta", "z").index(by)]
    found = observed_order(name, scheme, theta, task, betas, part)
    assert found == pytest.approx(scheme[1], abs=0.1)


@pytest.mark.parametrize("scheme", [s for s in SCHEMES if s != ("symmetric", 2)])
def test_order_in_beta_where_round_off_is_not_divided_by_beta(scheme):
    # With the free solution at the origin, phi_beta - phi_0 has no cancellation, and two decades
    # fit between the fourth-order error and round-off.
    theta, task = random_quadratic(2)
    theta, task = theta._replace(omega=0 * theta.omega), task._replace(centre=0 * task.centre)
    betas = np.geomspace(4e-4, 4e-2, 9)
    part = lambda grads: grads[0].omega
    found = observed_order("quadratic", scheme, theta, task, betas, part)
    assert found == pytest.approx(scheme[1], abs=0.1)


def single_weights():
    """Five weights by themselves, of equal curvature in and out: phi_beta - phi_0 ~ b / (1 + b)."""
    eye, ones = jnp.eye(5), jnp.ones(5)
    theta = mc.Synapse(0.3 * ones, math.log(0.5) * ones)
    return theta, Paraboloids(2 * eye, -ones, 3 * eye, 1.7 * ones)


def predicted_error(scheme, order, beta):
    """Of the stencil on 1 / (1 + beta), up to sign, by divided differences."""
    if scheme == "forward":
        return math.prod(i * beta / (1 + i * beta) for i in range(1, order + 1))
    return math.prod((i * beta) ** 2 / (1 - (i * beta) ** 2) for i in range(1, order // 2 + 1))


@pytest.mark.parametrize("beta", [0.01, 0.1, 0.4])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_error_for_one_weight_is_a_closed_form(scheme, beta):
    theta, task = single_weights()
    error = relative_error(
        contrast(theta, task, beta, scheme).omega, quadratic_hypergradient(theta, task).omega
    )
    # Round-off: phi to a few EPS, divided by beta, times weights whose sum is below 10.
    assert error == pytest.approx(predicted_error(*scheme, beta), rel=0, abs=100 * EPS / beta)


def test_forward_error_saturates_as_beta_over_one_plus_beta():
    theta, task = single_weights()
    error = relative_error(
        contrast(theta, task, 3.0).omega, quadratic_hypergradient(theta, task).omega
    )
    assert error == pytest.approx(3.0 / (1 + 3.0), rel=100 * EPS)


@given(seed=st.integers(0, 2**32 - 1), beta=st.floats(1e-3, 10.0))
def test_forward_error_is_bounded_by_beta_times_curvatures(seed, beta):
    theta, task = random_quadratic(seed)
    found = contrast(theta, task, beta).omega
    # g_beta - g = -beta 2 lam M^-1 A (M + beta A)^-1 A (phi_0 - b); |(M + beta A)^-1| <= |M^-1|.
    phi, m = quadratic_solution(theta, task)
    inverse, a = np.linalg.norm(np.linalg.inv(m), 2), np.linalg.norm(task.outer_curvature, 2)
    twice = 2 * np.exp(theta.log_lam).max()
    bound = beta * twice * (inverse * a) ** 2 * np.linalg.norm(phi - task.outer_centre)
    error = np.linalg.norm(found - quadratic_hypergradient(theta, task).omega)
    assert error <= bound + 1e3 * EPS / beta


@pytest.mark.parametrize("scheme", [("forward", 1), ("symmetric", 2)])
def test_negative_beta_turns_the_nudge_around(scheme):
    theta, task = random_quadratic(0)
    expected = quadratic_hypergradient(theta, task).omega
    there, back = (contrast(theta, task, b, scheme).omega for b in (0.01, -0.01))
    if scheme[0] == "symmetric":
        np.testing.assert_allclose(there, back, rtol=1e3 * EPS / 0.01)
    else:  # the errors of first order are opposite, the sum is a symmetric difference: beta^2
        assert relative_error(there, expected) > 1e-3
        assert relative_error((there + back) / 2, expected) < 0.01**2


# The direct derivative of the outer loss


def test_theta_in_the_outer_loss_alone_gives_its_direct_derivative():
    problem = mc.Problem(
        init=lambda theta, task: jnp.zeros(2),
        inner=lambda phi, theta, task: jnp.sum((phi - task) ** 2),
        outer=lambda phi, theta, task: theta * jnp.sum(phi**2),
    )
    solver = closed_form(lambda theta, task, beta: (task / (1 + beta * theta),))
    found = meta_grad(problem, solver, mc.Contrastive(1e-3), jnp.array(0.7), jnp.array([1.0, 2.0]))
    # Forward: the direct term is taken at phi_beta, |phi_beta|^2 = 5 / (1 + 0.7 beta)^2.
    assert float(found) == pytest.approx(5.0 / (1 + 0.7e-3) ** 2, rel=1e-12)


def test_theta_in_both_losses_adds_the_direct_and_the_implicit_derivative():
    problem = mc.Problem(
        init=lambda theta, task: theta,
        inner=lambda phi, theta, task: (phi - theta) ** 2 + (phi - task) ** 2,
        outer=lambda phi, theta, task: (phi - theta) ** 2,
    )
    solver = closed_form(lambda theta, z, beta: (((1 + beta) * theta + z) / (2 + beta),))
    rule = mc.Contrastive(1e-3, "symmetric")
    found = meta_grad(problem, solver, rule, jnp.array(1.0), jnp.array(4.0))
    # phi_0 - theta = (task - theta) / 2: L_out = (task - theta)^2 / 4, whose slope is -3/2; of it,
    # -2 (phi_0 - theta) = -3 is direct. The error is below beta^2.
    assert float(found) == pytest.approx(-1.5, abs=1e-6)


# Phases. Which are run is told by tracing alone.


def traced(estimator, solver):
    """The nudges and the starts of the phases, in the order in which they are run."""
    note = record(solver)
    jax.eval_shape(mc.meta_gradient(quadratic, note, estimator), *random_quadratic(0))
    return note


SGD = mc.descend(optax.sgd(0.1), 2)


@pytest.mark.parametrize(
    ("rule", "betas"),
    [
        (mc.Contrastive(0.1), [0.0, 0.1]),
        (mc.Contrastive(0.1, order=2), [0.0, 0.1, 0.2]),
        (mc.Contrastive(0.1, "symmetric"), [0.0, -0.1, 0.1]),
        (mc.Contrastive(0.1, "symmetric", 4), [0.0, -0.2, -0.1, 0.1, 0.2]),
        (mc.Contrastive(0.1, control=True), [0.0, 0.0, 0.1]),
        (mc.Contrastive(0.1, "symmetric", control=True), [0.0, -0.1, 0.1]),
        (mc.Contrastive(0.1, nudge="linear", control=True), [0.0, 0.0, 0.1]),
    ],
    ids=lambda x: repr(x)[:70] if isinstance(x, mc.Contrastive) else "",
)
def test_the_phases_that_are_run(rule, betas):
    note = traced(rule, SGD)
    assert note.betas == betas
    # The nudged ones start at the free solution, which is one and the same array.
    assert len({id(start) for start in note.starts[1:]}) == 1
    assert note.starts[0] is not note.starts[1]


@pytest.mark.parametrize("control", [False, True])
def test_nudged_solver_runs_the_nudged_phases_and_no_other(control):
    nudged = record(SGD)
    free = traced(mc.Contrastive(0.1, nudged=nudged, control=control), SGD)
    assert (free.betas, nudged.betas) == ([0.0], [0.0, 0.1] if control else [0.1])


STENCILS = [
    mc.Contrastive(0.1, "symmetric"),
    mc.Contrastive(0.1, order=3, control=True),
    mc.Contrastive(0.1, "symmetric", order=4, nudge="linear"),
    mc.Contrastive(0.1, "holomorphic", nudge="linear"),
    mc.Contrastive(0.1, order=2, nudged=mc.secant_cg(3), nudge="linear"),
]
TOL = mc.until_converged(optax.sgd(0.1), 1e-3)


FIRST = {(STENCILS[0], TOL), (STENCILS[2], SGD), (STENCILS[4], SGD)}  # of each way to be nudged


@pytest.mark.parametrize(
    ("rule", "solver"),
    [
        pytest.param(*pair, marks=() if pair in FIRST else pytest.mark.thorough)
        for pair in product(STENCILS, (SGD, TOL))
    ],
    ids=lambda x: repr(x)[12:60] if isinstance(x, mc.Contrastive) else "2" if x is SGD else "tol",
)
def test_phases_side_by_side_are_the_same_phases(rule, solver):
    def run(side_by_side):
        estimator = replace(rule, side_by_side=side_by_side)
        gradient = mc.meta_gradient(quadratic, solver, estimator)
        first = gradient(*random_quadratic(0))
        warm = gradient(*random_quadratic(1), starts=first.phases)
        return [(m.value, m.by_theta, m.by_z, m.aux, m.phases) for m in (first, warm)]

    one, other = jax.jit(lambda: (run(True), run(False)))()
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e4 * EPS / 0.1, atol=1e4 * EPS / 0.1)


@pytest.mark.parametrize("nudge", ["outer", "linear"])
def test_the_nudged_solver_may_be_a_function(nudge):
    theta, task = random_quadratic(0)
    exact = mc.closed_form()
    function = lambda loss, phi: exact(loss, phi).phi
    ours, theirs = (
        meta_grad(quadratic, exact, mc.Contrastive(0.1, nudge=nudge, nudged=nudged), theta, task)
        for nudged in (function, exact)
    )
    assert relative_error(ours, theirs) < 1e3 * EPS / 0.1  # round-off, divided by beta


def descent_by_hand(theta, task, phi, beta, steps, rate=0.05, decay=0.9):
    """Gradient descent with momentum on the quadratic problem."""
    theta, task = jax.tree.map(np.asarray, (theta, task))
    trace = np.zeros_like(phi)
    for _ in range(steps):
        grad = task.curvature @ (phi - task.centre)
        grad = grad + 2 * np.exp(theta.log_lam) * (phi - theta.omega)
        grad = grad + beta * task.outer_curvature @ (phi - task.outer_centre)
        trace = decay * trace + grad
        phi = phi - rate * trace
    return phi


@pytest.mark.parametrize("control", [False, True])
def test_phases_by_hand(control):
    # Seven steps freely and four nudged: far from converged, so that starting elsewhere, with the
    # momentum of the free phase or with one step more would show.
    theta, task = random_quadratic(0)
    beta, optimizer = 0.3, optax.sgd(0.05, momentum=0.9)
    rule = mc.Contrastive(beta, nudged=mc.descend(optimizer, 4), control=control)
    found = meta_grad(quadratic, mc.descend(optimizer, 7), rule, theta, task).omega
    free = descent_by_hand(theta, task, np.asarray(theta.omega), 0.0, 7)
    nudged = descent_by_hand(theta, task, free, beta, 4)
    base = descent_by_hand(theta, task, free, 0.0, 4) if control else free
    by_hand = -2 * np.exp(theta.log_lam) * (nudged - base) / beta
    # 11 steps of a few roundings each, on numbers of order one, divided by beta.
    assert relative_error(found, by_hand) < 100 * EPS / beta


def test_a_learner_that_does_not_move_has_no_contrast():
    theta, task = random_quadratic(0)
    found = meta_grad(quadratic, lazy, mc.Contrastive(0.1), theta, task)
    assert all(jnp.all(leaf == 0) for leaf in jax.tree.leaves(found))


def test_a_traced_beta_is_the_same_estimator():
    theta, task = random_quadratic(0)
    solver = mc.descend(optax.sgd(0.1), 3)  # far from converged: an extra phase would show
    for nudge in ("outer", "linear"):
        grad = lambda beta, nudge=nudge: meta_grad(
            quadratic, solver, mc.Contrastive(beta, nudge=nudge), theta, task
        )
        assert relative_error(jax.jit(grad)(0.1), grad(0.1)) < 1e3 * EPS


def test_control_cancels_the_steps_the_free_phase_had_still_to_go():
    theta, task = random_quadratic(0)
    solver = mc.descend(optax.sgd(0.05), 10)
    plain, control = (
        meta_grad(quadratic, solver, mc.Contrastive(1e-5, control=c), theta, task)
        for c in (False, True)
    )
    expected = quadratic_hypergradient(theta, task)
    assert relative_error(plain, expected) > 100
    assert relative_error(control, expected) < 1


# The same random numbers in every phase


@dataclass(frozen=True)
class LastView(mc.Solver):
    """Learns the noise of the view of its last step."""

    def step(self, loss, state, t):
        return state._replace(phi=loss.z.centre)


@pytest.mark.parametrize("scheme", ["forward", "symmetric"])
def test_every_phase_draws_the_same_views_and_each_step_another(scheme):
    theta, task = random_quadratic(0)
    sample = lambda task, key: task._replace(centre=jax.random.normal(key, (5,)))
    problem = mc.Problem(quadratic.init, quadratic.inner, quadratic.outer, sample=sample)
    rule, key = mc.Contrastive(0.1, scheme, control=True), jax.random.key(3)
    ends = []
    for steps in (1, 2):
        gradient = mc.meta_gradient(problem, LastView(steps=steps), rule)
        free, nudged = jax.jit(lambda *a, g=gradient: g(*a).phases)(theta, task, key)
        assert len(nudged) == 2
        for start in nudged:
            np.testing.assert_array_equal(start.phi, free.phi)
        ends.append(free.phi)
    assert jnp.all(ends[0] != ends[1])


def sampled_ridge():
    """Ridge regression on mini-batches of two of six examples."""

    def draw(task, key):
        rows = jax.random.choice(key, len(task.train.y), (2,), replace=False)
        return task._replace(train=jax.tree.map(lambda leaf: leaf[rows], task.train))

    return mc.Problem(ridge.init, ridge.inner, ridge.outer, sample=draw), *random_ridge(0)


def nudged_run(problem, theta, task, key, steps, rate):
    """`d(phi_beta - phi_0)/dbeta` at 0 of the mini-batch run from phi_0, written out by hand."""

    def descend(beta, phi):
        for t in range(steps):
            draw, _ = jax.random.split(jax.random.fold_in(key, t))
            view = problem.sample(task, draw)
            slope_in = jax.grad(problem.inner)(phi, theta, view)
            slope_out = jax.grad(problem.outer)(phi, theta, view)
            phi = phi - rate * (slope_in + beta * slope_out)
        return phi

    free = descend(0.0, problem.init(theta, task))
    return jax.jvp(lambda beta: descend(beta, free), (0.0,), (1.0,))[1]


def test_contrasts_of_a_sampling_learner():
    problem, theta, task = sampled_ridge()
    key, steps, rate = jax.random.key(1), 3, 0.1
    solver = mc.descend(optax.sgd(rate), steps)

    def estimate(beta, *words):
        gradient = mc.meta_gradient(problem, solver, mc.Contrastive(beta, *words))
        return gradient(theta, task, key).by_theta.omega

    @jax.jit
    def run():
        velocity = nudged_run(problem, theta, task, key, steps, rate)
        limit = -2 * jnp.exp(theta.log_lam) * velocity
        control = (None, "outer", None, None, True)
        return (
            limit,
            estimate(1e-5, "symmetric"),
            estimate(1e-6, "forward", *control),
            estimate(1e-5),
            estimate(1e-6),
        )

    limit, symmetric, control, large, small = run()
    # beta^2 is 1e-10 and round-off over beta 1e-11.
    assert relative_error(symmetric, limit) < 1e-9
    # Curvatures below 1 and three steps of 0.1: the error of first order is below beta.
    assert relative_error(control, limit) < 1e-6
    # Without control what the batches move is divided by beta: it has no limit.
    ratio = float(jnp.linalg.norm(small) / jnp.linalg.norm(large))
    assert ratio == pytest.approx(10, rel=1e-3)


# What the task may hold


def test_a_task_need_not_be_differentiable():
    settled = lambda task: jax.lax.while_loop(lambda c: c < 10.0, lambda c: 2 * c, task)
    problem = mc.Problem(
        init=lambda theta, task: theta,
        inner=lambda phi, theta, task: (phi - settled(task)) ** 2 + (phi - theta) ** 2,
        outer=lambda phi, theta, task: phi**2,
    )
    estimators = [
        mc.Contrastive(1e-3, "symmetric"),
        mc.Contrastive(1e-3, nudge="linear"),
        mc.Implicit("cg"),
        mc.Unrolled(),
    ]
    solver = mc.as_solver(lambda loss, phi: phi - jax.grad(loss)(phi) / 4)  # is exact for L_in

    @jax.jit
    def run(theta, task):
        return [jax.grad(mc.meta_loss(problem, solver, e))(theta, task) for e in estimators]

    # phi_0 = (12 + 2) / 2, d phi_0 / d theta = 1/2; the nudge of a quarter of the curvature leaves
    # the solver, which divides by the curvature of L_in alone, linear in beta.
    np.testing.assert_allclose(run(jnp.array(2.0), jnp.array(3.0)), 7.0, rtol=1e-3)


# Diagnostics


@cache
def diagnostics(scheme, order):
    rule = mc.Contrastive(0.1, scheme, order)
    return mc.meta_gradient(quadratic, closed_form(quadratic_solution), rule)


def test_diagnostics_of_solved_phases():
    theta, task = random_quadratic(0)
    value, _, _, aux, _ = diagnostics("forward", 2)(theta, task)
    phis = [quadratic_solution(theta, task, beta)[0] for beta in (0.0, 0.1, 0.2)]
    inner = [quadratic.inner(phi, theta, task) for phi in phis]
    outer = [quadratic.outer(phi, theta, task) for phi in phis]
    distance = [jnp.linalg.norm(phi - phis[0]) for phi in phis]
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=100 * EPS)
    close((value, aux["inner"], aux["outer"]), (outer[0], inner[0], outer[0]))
    close(aux["nudged_inner"], inner[1:])
    close(aux["nudged_outer"], outer[1:])
    np.testing.assert_allclose(aux["distance"], distance[1:], rtol=1e3 * EPS)
    # Round-off of a gradient whose terms are of order one.
    assert max(aux["residual"], *aux["nudged_residual"]) < 100 * EPS


@pytest.mark.filterwarnings("ignore:the meta-gradient may be wrong")
def test_residual_is_the_gradient_norm_where_the_phase_stopped():
    theta, task = random_quadratic(0)
    rule = mc.Contrastive(0.5)
    aux = mc.meta_gradient(quadratic, mc.descend(optax.sgd(0.1), 3), rule)(theta, task).aux
    free = descent_by_hand(theta, task, np.asarray(theta.omega), 0.0, 3, 0.1, 0.0)
    nudged = descent_by_hand(theta, task, free, 0.5, 3, 0.1, 0.0)
    # A step of plain descent is the gradient times the rate.
    norm = lambda phi, beta: (
        np.linalg.norm(descent_by_hand(theta, task, phi, beta, 1, 0.1, 0.0) - phi) / 0.1
    )
    assert aux["residual"] == pytest.approx(norm(free, 0.0), rel=100 * EPS)
    assert aux["nudged_residual"] == [pytest.approx(norm(nudged, 0.5), rel=1e3 * EPS)]


@given(seed=st.integers(0, 2**32 - 1))
def test_a_nudge_lowers_the_outer_loss_and_raises_the_inner(seed):
    aux = diagnostics("forward", 2)(*random_quadratic(seed)).aux
    outer, inner = ([aux[n], *aux["nudged_" + n]] for n in ("outer", "inner"))
    assert outer[0] > outer[1] > outer[2]
    assert inner[0] < inner[1] < inner[2]


# A negative nudge without a minimum


PULLED = mc.Problem(
    init=lambda theta, task: theta,
    inner=lambda phi, theta, task: (phi - theta) ** 2,
    outer=lambda phi, theta, task: task[1] * (phi - task[0]) ** 2,
)
THETA = jnp.array(1.0)


def pulled(steep):
    """`L_in - beta L_out` has the curvature `2 - 2 steep beta`."""
    return jnp.array([3.0, steep])


@cache
def told(rule, rate, steps):
    return mc.meta_gradient(PULLED, mc.descend(optax.sgd(rate), steps), rule)


SYMMETRIC, BACKWARD = mc.Contrastive(0.5, "symmetric"), mc.Contrastive(-0.5)


@pytest.mark.parametrize("rule", [SYMMETRIC, BACKWARD])
def test_a_negative_nudge_that_makes_the_problem_unbounded_is_explained(rule):
    with pytest.warns(RuntimeWarning, match=r"may be wrong.*unbounded: .*lower \|beta\|"):
        aux = told(rule, 0.1, 20)(THETA, pulled(4.0)).aux
    # The curvature is constant, and on the way from phi_0 it is what the quadratic has.
    assert float(aux["nudged_curvature"][0]) == pytest.approx(2 - 2 * 4.0 * 0.5)


def test_the_gradient_of_a_meta_loss_warns_too():
    loss = mc.meta_loss(PULLED, mc.descend(optax.sgd(0.1), 20), SYMMETRIC)
    with pytest.warns(RuntimeWarning, match="unbounded: "):
        jax.grad(loss)(THETA, pulled(4.0))


@pytest.mark.parametrize("steep", [1.0, 1.95])
def test_a_negative_nudge_with_a_minimum_is_not_complained_of(steep):
    curvatures = told(SYMMETRIC, 0.1, 20)(THETA, pulled(steep)).aux["nudged_curvature"]
    assert [float(c) for c in curvatures] == pytest.approx([2 - steep, 2 + steep])


def test_a_nudged_phase_that_overflows_is_explained_too():
    with pytest.warns(RuntimeWarning, match="unbounded: "):
        told(mc.Contrastive(8.0, "symmetric"), 1.0, 1000)(THETA, pulled(4.0))


def test_where_values_are_traced_the_diagnostics_tell_it():
    curvature = jax.jit(lambda *a: told(SYMMETRIC, 0.1, 20)(*a).aux["nudged_curvature"])
    assert float(curvature(THETA, pulled(4.0))[0]) < 0


# Settings


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ({"beta": "much"}, "beta: must be a number, finite and not zero or None, not 'much'"),
        ({"nudge": "quadratic"}, "nudge: must be 'outer' or 'linear'"),
        ({"damping": 0.1}, "damping: .* say nudge='linear'"),
        ({"damping": 0.1, "nudge": "linear", "control": True}, "damping: .* control=False"),
        ({"damping": -1.0, "nudge": "linear"}, "damping: must be at least 0"),
        ({"damping": float("nan"), "nudge": "linear"}, "damping: must be at least 0"),
        ({"damping": float("inf"), "nudge": "linear"}, "damping: must be at least 0"),
    ],
)
@pytest.mark.wrong_types
def test_settings_that_make_no_sense_are_refused(words, name):
    with pytest.raises((TypeError, ValueError), match=rf"^{name}"):
        mc.Contrastive(**({"beta": 0.1} | words))
