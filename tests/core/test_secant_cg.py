"""Nudged phases by one solve on secants, against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import normal
from jax.flatten_util import ravel_pytree

import metacontrast as mc
from metacontrast._conjugate_gradient import goal_cg
from metacontrast._precondition import quasi_newton

EPS = float(jnp.finfo(jnp.float64).eps)
N = 8
TURN = jnp.linalg.qr(normal(0, N, N))[0]
CURVATURES = jnp.repeat(jnp.array([0.5, 2.0, 3.0, 10.0]), 2)
HESSIAN = TURN @ jnp.diag(CURVATURES) @ TURN.T
TARGET, THETA, STILL = normal(1, N), normal(2, N), jnp.zeros(())


def inner(phi, theta, bend):
    """At rest at H^-1 theta with a bend of 0; and at any phi the sum of a quartic in it."""
    return 0.5 * phi @ HESSIAN @ phi - theta @ phi + bend * jnp.sum(phi**4)


def outer(phi, theta, bend):
    return 0.5 * jnp.sum((phi - TARGET) ** 2)


@mc.as_solver
def newton(loss, phi):
    step = lambda _, x: x - jnp.linalg.solve(jax.hessian(loss)(x), jax.grad(loss)(x))
    return jax.lax.fori_loop(0, 12, step, phi)


PROBLEM = mc.Problem(lambda theta, bend: jnp.zeros_like(theta), inner, outer)
exactly = jax.jit(mc.meta_gradient(PROBLEM, newton, mc.Implicit("exact")))


def rule(solver, beta=None, scheme="symmetric", order=None, **settings):
    return mc.Contrastive(beta, scheme, order, nudge="linear", nudged=solver, **settings)


def gradient(estimator, problem=PROBLEM, solver=newton):
    return jax.jit(mc.meta_gradient(problem, solver, estimator))


def missed(found, true):
    return float(np.linalg.norm(found - true) / np.linalg.norm(true))


# The solution

# Differences of gradients err by about the root of eps, and the error of a direction is that times
# the condition of H, 20, at most; ten times that is the margin.
SECANT = 10 * 20 * EPS**0.5


@pytest.mark.thorough
def test_as_many_products_as_curvatures_are_enough():
    true = jnp.linalg.solve(HESSIAN, jnp.linalg.solve(HESSIAN, THETA) - TARGET)
    errors = [missed(gradient(rule(mc.secant_cg(k)))(THETA, STILL).by_theta, true) for k in (3, 4)]
    assert errors[1] < SECANT < 1e-2 < errors[0]


@pytest.mark.parametrize(
    ("scheme", "order", "nudge"),
    [
        ("forward", 1, "linear"),
        ("forward", 2, "outer"),
        ("symmetric", 2, "linear"),
        ("symmetric", 4, "linear"),
        ("symmetric", 2, "outer"),
        ("holomorphic", 4, "linear"),
    ],
)
def test_the_tangent_alone_gives_every_order_in_beta(scheme, order, nudge):
    task = jnp.array(0.3)
    true = exactly(THETA, task)

    def error(beta):
        estimator = mc.Contrastive(beta, scheme, order, nudge=nudge, nudged=mc.secant_cg(N))
        found = mc.meta_gradient(PROBLEM, newton, estimator)(THETA, task)
        both = [ravel_pytree((g.by_theta, g.by_z))[0] for g in (found, true)]
        return jnp.linalg.norm(both[0] - both[1])

    wide, narrow = jax.jit(jax.vmap(error))(jnp.array([0.2, 0.1]))
    # By z the contrast is of a quartic along a line: but for two leading powers, it has no error.
    if order == 4:
        assert wide < 1e-6  # secants
    else:
        assert wide / narrow == pytest.approx(2.0**order, rel=0.35)
        assert narrow > 1e-4


def counted(estimator):
    """How often the inner loss is called for a meta-gradient, those of diagnostics included."""
    calls = []

    def loss(phi, theta, bend):
        jax.debug.callback(lambda: calls.append(1))
        return inner(phi, theta, bend)

    problem = mc.Problem(lambda theta, bend: jnp.linalg.solve(HESSIAN, theta), loss, outer)
    stay = mc.as_solver(lambda loss, phi: phi)
    value = mc.meta_loss(problem, stay, estimator)
    jax.block_until_ready(jax.jit(jax.grad(value))(THETA, STILL))
    jax.effects_barrier()
    return len(calls)


@pytest.mark.parametrize("order", [2, 4])
def test_one_solve_serves_every_node(order):
    counts = [counted(rule(mc.secant_cg(k), order=order)) for k in (2, 3)]
    assert counts[1] - counts[0] == 1  # gradient, however many nodes there are


def test_a_tolerance_is_met_by_the_meta_gradient():
    # Over random spectra of condition 1e2 to 1e4 and goals of 1 to 60 dimensions.
    @jax.jit
    def ratio(key, condition, tol):
        keys = jax.random.split(key, 3)
        a = jnp.logspace(0, -condition, 60) * jnp.exp(0.1 * jax.random.normal(keys[0], (60,)))
        b, goals = jax.random.normal(keys[1], (60,)), jax.random.normal(keys[2], (60, 60))
        goals = goals * (jnp.arange(60) < jax.random.randint(key, (), 1, 60))[:, None]
        x, _ = goal_cg(lambda p: (a * p, goals @ p), b, 400, tol)
        true = goals @ (b / a)
        return jnp.linalg.norm(goals @ x.x - true) / jnp.linalg.norm(true) / tol, x.iterations

    cases = [(c, t) for c in (2.0, 3.0, 4.0) for t in (1e-1, 1e-2, 1e-3)]
    keys = jax.random.split(jax.random.key(0), 20)
    over = jax.vmap(jax.vmap(ratio, (0, None, None)), (None, 0, 0))
    ratios, steps = over(keys, jnp.array([c for c, _ in cases]), jnp.array([t for _, t in cases]))
    assert np.mean(ratios < 3) > 0.9
    assert steps.max() < 400


# Where it begins, and what helps it


def matrix(p):
    return HESSIAN @ p, p[:0]


@pytest.mark.parametrize("start", [1.0, -3.0, 1e-20, 1e20])
def test_from_the_solution_it_has_no_way_to_go(start):
    true = jnp.linalg.solve(HESSIAN, TARGET)
    found, _ = goal_cg(matrix, TARGET, 20, start=start * true)
    assert found.iterations <= 2  # one to see that it is one, and round-off
    assert missed(found.x, true) < 1e-12


@pytest.mark.parametrize("start", [jnp.zeros(N), jnp.full(N, jnp.nan)])
def test_a_start_that_is_none_is_left_out(start):
    found, _ = goal_cg(matrix, TARGET, 5, start=start)
    assert missed(found.x, jnp.linalg.solve(HESSIAN, TARGET)) < 1e-12


def test_the_next_meta_gradient_begins_where_this_one_ended():
    step = gradient(rule(mc.secant_cg(3)))
    meta, errors = None, []
    for _ in range(4):
        meta = step(THETA, STILL, None, meta and meta.phases)
        errors.append(missed(meta.by_theta, exactly(THETA, STILL).by_theta))
    # Three products each, of which one is for the direction that is there.
    assert errors == sorted(errors, reverse=True) and errors[3] < 0.1 * errors[0]
    forgetful = gradient(rule(mc.secant_cg(3, recycle=False)))
    again = forgetful(THETA, STILL, None, forgetful(THETA, STILL).phases)
    assert missed(again.by_theta, exactly(THETA, STILL).by_theta) == pytest.approx(errors[0])


def test_the_inverse_as_preconditioner_leaves_one_step():
    apply = lambda r: jnp.linalg.solve(HESSIAN, r)
    found, _ = goal_cg(matrix, TARGET, 1, inverse=apply)
    assert missed(found.x, apply(TARGET)) < 1e-13


def test_any_other_leaves_the_solution():
    weights = jnp.exp(normal(5, N))
    found, _ = goal_cg(matrix, TARGET, N + 2, inverse=lambda r: weights * r)
    assert missed(found.x, jnp.linalg.solve(HESSIAN, TARGET)) < 1e-12


def test_pairs_are_those_of_bfgs():
    steps = normal(6, 5, N)
    steps = steps.at[1].set(0.0)  # one that is not there
    changes = steps @ HESSIAN
    # The recursion, from the oldest, which stands behind the newest, row 2.
    order = [3, 4, 0, 2]
    last = 2
    dense = jnp.eye(N) * (steps[last] @ changes[last]) / (changes[last] @ changes[last])
    for i in order:
        s, y = steps[i], changes[i]
        left = jnp.eye(N) - jnp.outer(s, y) / (s @ y)
        dense = left @ dense @ left.T + jnp.outer(s, s) / (s @ y)
    found = jax.vmap(quasi_newton(steps, changes, jnp.array(last)).apply)(jnp.eye(N))
    np.testing.assert_allclose(found, dense, rtol=0, atol=1e-12 * float(jnp.linalg.norm(dense)))


CURVED = jnp.logspace(0, 2, N)
STEEP = mc.Problem(
    lambda theta, z: theta + 1.0,
    lambda phi, theta, z: 0.5 * jnp.sum(CURVED * (phi - theta) ** 2),
    lambda phi, theta, z: jnp.sum(phi**2),
)
FREE = {
    "pairs": mc.lbfgs(1e-9, pairs=20),
    # Moments that remember the slopes of all steps, which are as the curvatures.
    "moments": mc.descend(optax.adam(1e-3, b2=0.9999), 20),
}


@pytest.mark.parametrize("free", FREE.values(), ids=FREE)
def test_what_the_free_phase_has_met_is_a_preconditioner(free):
    errors = []
    for precondition in (False, True):
        solver = mc.secant_cg(3, precondition=precondition)
        found = gradient(rule(solver), STEEP, free)(THETA, STILL)
        errors.append(missed(found.by_theta, 2 * found.phases.free.phi))
    assert errors[1] < 0.1 * errors[0]


# What goes wrong


def saddle(phi, theta, bend):
    """Curvatures of 1, and one that is negative, -0.5."""
    return 0.5 * jnp.sum(phi**2) - 0.75 * phi[0] ** 2 - theta @ phi


SADDLE = mc.Problem(lambda theta, bend: jnp.zeros(N), saddle, outer)


@pytest.mark.filterwarnings("ignore:the meta-gradient may be wrong")
@pytest.mark.parametrize("direction", ["at once", "later"])
def test_negative_curvature_is_stopped_at_and_flagged(direction):
    slope = jnp.eye(N)[0] if direction == "at once" else jnp.full(N, 1.0).at[0].set(0.3)
    target = lambda phi, theta, z: slope @ phi
    problem = SADDLE.__class__(SADDLE.init, saddle, target)
    stay = mc.as_solver(lambda loss, phi: phi)
    found = gradient(rule(mc.secant_cg(N), beta=0.1), problem, stay)(THETA, STILL)
    assert found.aux["flags"].unbounded and not found.aux["flags"].nonfinite
    # dphi_0/dtheta is 1 where the curvature is; along the first step alone, exactly.
    first = slope * (slope @ slope) / (slope @ slope - 1.5 * slope[0] ** 2)
    expected = jnp.zeros(N) if direction == "at once" else first
    np.testing.assert_allclose(found.by_theta, expected, atol=1e-6)
    # With beta left to the curvature there is none.
    assert np.isnan(gradient(rule(mc.secant_cg(N)), problem, stay)(THETA, STILL).by_theta).all()
    damped = gradient(rule(mc.secant_cg(N), 0.1, damping=1.0), problem, stay)(THETA, STILL)
    assert not damped.aux["flags"].unbounded
    np.testing.assert_allclose(damped.by_theta, (slope / 2).at[0].mul(4), rtol=1e-6)


@pytest.mark.filterwarnings("ignore:the meta-gradient may be wrong")
def test_no_number_is_flagged_and_ends_it():
    broken = lambda phi, theta, bend: inner(phi, theta, bend) + jnp.sqrt(phi[0])
    problem = mc.Problem(lambda theta, bend: jnp.zeros(N), broken, outer)
    stay = mc.as_solver(lambda loss, phi: phi)
    found = gradient(rule(mc.secant_cg(50), beta=0.1), problem, stay)(THETA, STILL)
    assert found.aux["flags"].unbounded and found.aux["flags"].nonfinite


@pytest.mark.filterwarnings("ignore:the meta-gradient may be wrong")
@pytest.mark.parametrize("pulled", [False, True])
def test_along_what_is_flat_there_is_no_minimum(pulled):
    wide = normal(7, 3, N)
    seen = lambda phi, theta, z: jnp.sum((wide @ phi - 1.0) ** 2)
    problem = mc.Problem(
        lambda theta, z: jnp.linalg.pinv(wide) @ theta,
        lambda phi, theta, z: jnp.sum((wide @ phi - theta) ** 2),
        outer if pulled else seen,
    )
    stay = mc.as_solver(lambda loss, phi: phi)
    theta = normal(8, 3)
    found = gradient(rule(mc.secant_cg(N), 0.1), problem, stay)(theta, STILL)
    assert found.aux["flags"].unbounded == pulled
    if not pulled:
        assert missed(found.by_theta, 2 * (theta - 1.0)) < 1e-5


# Types, scales, batches


@pytest.mark.parametrize("central", [False, True])
def test_float32(central):
    narrow = lambda tree: jax.tree.map(lambda x: x.astype(jnp.float32), tree)
    found = gradient(rule(mc.secant_cg(N, central=central)))(narrow(THETA), narrow(STILL))
    assert found.by_theta.dtype == jnp.float32
    power = 2 / 3 if central else 1 / 2
    floor = float(jnp.finfo(jnp.float32).eps) ** power
    # Of secants, in which the condition of 20 counts; ten is the margin.
    assert missed(found.by_theta, exactly(THETA, STILL).by_theta) < 10 * 20 * floor


def test_any_unit_of_phi_and_of_the_loss():
    def relative(unit, stiff):
        problem = mc.Problem(
            lambda theta, z: unit * jnp.linalg.solve(HESSIAN, theta),
            lambda phi, theta, z: stiff * inner(phi / unit, theta, 0.3),
            lambda phi, theta, z: outer(phi / unit, theta, z),
        )
        stay = mc.as_solver(lambda loss, phi: phi)
        return mc.meta_gradient(problem, stay, rule(mc.secant_cg(N, 1e-6)))(THETA, STILL).by_theta

    units, stiffs = 10.0 ** jnp.array([0, -8, 8, 3]), 10.0 ** jnp.array([0, 8, -8, 8])
    found = jax.jit(jax.vmap(relative))(units, stiffs)
    np.testing.assert_allclose(found, jnp.broadcast_to(found[0], found.shape), rtol=0, atol=1e-5)


def test_batches_are_frozen():
    scales = lambda key: 1.0 + jax.random.uniform(key, (N,))
    problem = mc.Problem(
        lambda theta, z: theta,
        lambda phi, theta, z: 0.5 * jnp.sum(z * (phi - theta) ** 2),
        outer,
        sample=lambda z, key: scales(key),
    )
    key, task = jax.random.key(3), jnp.ones(N)
    stay = mc.as_solver(lambda loss, phi: phi, samples=False)
    estimator = rule(mc.secant_cg(N, views=2))
    found = gradient(estimator, problem, stay)(THETA, task, key).by_theta
    loss = mc.Loss(problem, THETA, task, key)
    mean = (loss.view(0).z + loss.view(1).z) / 2
    # The curvature is that of two views; the contrast is taken on the task itself.
    assert missed(found, (THETA - TARGET) / mean) < 10 * 2 * EPS**0.5
    whole = gradient(rule(mc.secant_cg(N)), problem, stay)(THETA, task, key).by_theta
    assert missed(whole, THETA - TARGET) < 10 * EPS**0.5


def test_the_derivative_of_a_minimiser():
    find = mc.argmin(inner, newton, init=lambda theta, z: jnp.zeros(N), nudged=mc.secant_cg(N))
    found = jax.grad(lambda theta: TARGET @ find(theta, STILL))(THETA)
    assert missed(found, jnp.linalg.solve(HESSIAN, TARGET)) < SECANT


# Refusals


def test_it_is_no_learner():
    with pytest.raises(TypeError, match=r"solver: SecantCG\(.* free phase .* Contrastive\(nudged"):
        mc.solve_inner(PROBLEM, mc.secant_cg(), THETA, STILL)


def test_a_preconditioner_must_be_there():
    plain = mc.descend(optax.sgd(0.05), 10)
    with pytest.raises(TypeError, match=r"nudged: SecantCG\(.*free phase's solver .* nothing"):
        gradient(rule(mc.secant_cg(precondition=True)), solver=plain)(THETA, STILL)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"iterations": 0}, "iterations: must be a whole number"),
        ({"tol": 0.0}, "tol: must be positive"),
        ({"tol": float("nan")}, "tol: must be positive"),
        ({"views": 1.5}, "views: must be a whole number"),
    ],
)
def test_bad_arguments_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        mc.secant_cg(**wrong)
