"""Each flag of a meta-gradient against mathematics; what is well posed raises none."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import CASES
from problems import quadratic, quadratic_hypergradient, random_quadratic, relative_error
from test_matrix import CONTRASTS, IMPLICIT, ROWS

import metacontrast as mc

WRONG = "the meta-gradient may be wrong"


def flagged(problem, solver, rule, theta, z=None):
    """Compiled, where nothing can be said but in the aux."""
    return jax.jit(mc.meta_gradient(problem, solver, rule))(theta, z)


def ways(*arguments):
    """The flags of one task: called, compiled, and of two tasks side by side."""
    *how, theta, z = arguments
    gradient = mc.meta_gradient(*how)
    with pytest.warns(RuntimeWarning, match=WRONG):
        yield gradient(theta, z).aux["flags"].raised()
    yield jax.jit(gradient)(theta, z).aux["flags"].raised()
    many = jax.vmap(gradient, (None, 0))(theta, jnp.stack([z, z])).aux["flags"]
    for i in range(2):
        yield jax.tree.map(lambda flag, i=i: flag[i], many).raised()


# Idle: a nudge below the tolerance

H = np.array([1.0, 3.0, 10.0], np.float32)
TARGET = jnp.array([1.0, 2.0, -1.0])
TARGET_32 = TARGET.astype(jnp.float32)
PENALTY = mc.Problem(
    init=lambda theta, t: jnp.zeros_like(t),
    inner=lambda phi, theta, t: jnp.sum(H * (phi - t) ** 2 + jnp.exp(theta) * phi**2) / 2,
    outer=lambda phi, theta, t: jnp.sum((phi - 1.0) ** 2) / 2,
)
STOPPING = {
    "until_converged": lambda tol: mc.until_converged(optax.sgd(0.09), tol),
    "lbfgs": mc.lbfgs,
    "newton_cg": mc.newton_cg,
    "anderson": lambda tol: mc.anderson(0.09, tol),
}


# What CI sees, of each nudge one; the rest is thorough.
BELOW = {("until_converged", "linear"), ("lbfgs", "outer")}


@pytest.mark.parametrize(
    ("name", "nudge"),
    [
        pytest.param(x, nudge, marks=() if (x, nudge) in BELOW else pytest.mark.thorough)
        for x in STOPPING
        for nudge in ("outer", "linear")
    ],
)
def test_a_nudge_below_the_tolerance(name, nudge):
    rule = mc.Contrastive(1e-3, "symmetric", nudge=nudge)
    phi = H * TARGET / (H + 1)
    exact = -(phi - 1) * phi / (H + 1)
    meta = flagged(PENALTY, STOPPING[name](1e-2), rule, jnp.zeros(3), TARGET)
    flags = meta.aux["flags"]
    # What does not move is idle; lbfgs moves in one of its phases, and is unconverged.
    assert flags.unconverged and (flags.idle or name == "lbfgs")
    assert flags.idle == (min(meta.aux["distance"]) == 0)
    if max(meta.aux["distance"]) == 0:
        assert jnp.all(meta.by_theta == 0)
    right = flagged(PENALTY, STOPPING[name](1e-7), rule, jnp.zeros(3), TARGET)
    assert not right.aux["flags"].any() and relative_error(right.by_theta, exact) < 1e-2


def test_idle_is_told_in_every_way_of_calling():
    rule, solver = mc.Contrastive(1e-3), STOPPING["until_converged"](1e-2)
    for raised in ways(PENALTY, solver, rule, jnp.zeros(3), TARGET):
        assert raised == ["idle", "unconverged"]


def test_what_has_no_slope_need_not_move():
    solver, theta = STOPPING["until_converged"](1e-2), jnp.zeros(3)
    flat = mc.Problem(PENALTY.init, PENALTY.inner, lambda phi, theta, t: jnp.sum(theta**2))
    for rule in (mc.Contrastive(1e-3), mc.Contrastive(1e-3, nudge="linear"), mc.Implicit("cg")):
        meta = mc.meta_gradient(flat, solver, rule)(theta + 1, TARGET)
        np.testing.assert_allclose(meta.by_theta, 2.0, rtol=1e-12)


# Unbounded


def test_a_negative_nudge_that_leaves_no_minimum():
    steep = mc.Problem(
        init=lambda theta, z: jnp.zeros(2),
        inner=lambda phi, theta, z: jnp.sum((phi - z) ** 2 + theta**2 * phi**2),
        outer=lambda phi, theta, z: jnp.sum((phi - 2.0) ** 2),
    )
    solver, z = mc.descend(optax.sgd(0.1), 60), jnp.ones(2)
    for rule in (mc.Contrastive(-2.0), mc.Contrastive(2.0, "symmetric")):
        for raised in ways(steep, solver, rule, jnp.array(0.5), z):
            assert "unbounded" in raised
    # The ratio of the curvatures is 1.25.
    meta = mc.meta_gradient(steep, solver, mc.Contrastive(-0.1))(jnp.array(0.5), z)
    assert not meta.aux["flags"].any()


def saddle(slopes):
    """A double well along the first weight, whose top is where learning starts and stays."""
    curvatures = jnp.arange(1.0, len(slopes))
    return mc.Problem(
        init=lambda theta, z: jnp.zeros(len(slopes)),
        inner=lambda phi, theta, z: (
            (phi[0] ** 2 - 1) ** 2 / 4 + curvatures @ phi[1:] ** 2 / 2 - theta * jnp.sum(phi)
        ),
        outer=lambda phi, theta, z: jnp.sum((phi + jnp.array(slopes)) ** 2) / 2,
    )


@pytest.mark.parametrize("slopes", [[1.0], [0.05, 0.5, 1.0]])
def test_the_top_of_a_double_well(slopes):
    solver = mc.descend(optax.sgd(0.1), 50)
    linear = mc.Contrastive(0.01, "symmetric", nudge="linear", damping=0.1)
    exact = [mc.Implicit("exact"), mc.Implicit("exact", hessian_free=True)]
    for rule in (mc.Implicit("cg"), *exact, mc.Contrastive(0.01), linear):
        flags = flagged(saddle(slopes), solver, rule, jnp.zeros(())).aux["flags"]
        # Curvatures that cancel along the slope are 0 to conjugate gradient: unsolved.
        assert flags.unbounded or (rule == mc.Implicit("cg") and flags.unconverged)
    damped = flagged(saddle(slopes), solver, mc.Implicit("exact", damping=1.1), jnp.zeros(()))
    assert not damped.aux["flags"].unbounded


# Unconverged


@pytest.mark.parametrize("control", [False, True])
def test_the_linear_residual_is_that_of_the_system_the_contrast_solves(control):
    """Few steps of SGD on a quadratic: `u = (phi_beta - phi_0) / beta`, `|H u + v| / |v|`."""
    theta, z = random_quadratic(1)
    rule = mc.Contrastive(1e-5, control=control)
    few = mc.descend(optax.sgd(0.1), 5)
    meta = flagged(quadratic, few, rule, theta, z)
    lam, hessian = jnp.exp(theta.log_lam), z.curvature + 2 * jnp.diag(jnp.exp(theta.log_lam))

    def run(phi, beta):
        for _ in range(5):
            slope = z.curvature @ (phi - z.centre) + 2 * lam * (phi - theta.omega)
            phi = phi - 0.1 * (slope + beta * z.outer_curvature @ (phi - z.outer_centre))
        return phi

    phi = run(theta.omega, 0.0)
    u = (run(phi, 1e-5) - (run(phi, 0.0) if control else phi)) / 1e-5
    v, nudge = (z.outer_curvature @ (x - z.outer_centre) for x in (phi, run(phi, 1e-5)))
    expected = jnp.linalg.norm(hessian @ u + nudge) / jnp.linalg.norm(v)
    np.testing.assert_allclose(meta.aux["linear_residual"], expected, rtol=1e-4)
    assert meta.aux["flags"].unconverged == (expected > 0.5)
    if not control:  # what the free phase left undone is divided by beta
        assert expected > 100


@pytest.mark.parametrize(("tol", "raised"), [(0.51, True), (0.49, False), (None, False)])
def test_tolerances_that_cancel_by_chance(tol, raised):
    """Both phases stop at a slope that is this part of the nudge's, beta / 2; the scheme's cancel.

    The two have a weight of 1 / beta together, and the outer loss a slope of a half.
    """
    problem = mc.Problem(
        init=lambda theta, z: jnp.zeros(()),
        inner=lambda phi, theta, z: (phi - theta) ** 2 / 2,
        outer=lambda phi, theta, z: phi / 2,
    )
    stops = (tol or 0.51) * 0.1 / 2

    def run(loss, phi):
        b = loss.nudge.beta if loss.nudge is not None else 0.0
        end = loss.theta - b / 2 + (stops if loss.nudge is not None else 0.0)
        converged = None if tol is None else jnp.array(True)
        return mc.Solution(end, converged=converged)

    meta = flagged(problem, run, mc.Contrastive(0.1, "symmetric"), jnp.array(1.0))
    np.testing.assert_allclose(meta.aux["linear_residual"], 0.0, atol=1e-12)
    assert meta.aux["flags"].raised() == (["unconverged"] if raised else [])


def test_implicit_off_the_minimum():
    """Where learning has 0.26 of its way to go the implicit gradient is of another function."""
    problem = mc.Problem(
        init=lambda theta, z: jnp.zeros(()),
        inner=lambda phi, theta, z: jnp.log(jnp.cosh(phi - theta - z)),
        outer=lambda phi, theta, z: phi**2 / 2,
    )
    theta, z = jnp.array(0.5), jnp.array(2.0)
    for method in ("cg", "exact"):
        rule = mc.Implicit(method)
        for raised in ways(problem, mc.descend(optax.sgd(0.1), 3), rule, theta, z):
            assert raised == ["unconverged"]
        meta = mc.meta_gradient(problem, mc.descend(optax.sgd(0.5), 60), rule)(theta, z)
        np.testing.assert_allclose(meta.by_theta, 2.5, rtol=1e-6)


SOLVES = {
    "cg": mc.Implicit("cg"),
    "exact": mc.Implicit("exact"),
    "cg, no Hessian": mc.Implicit("cg", hessian_free=True),
    "exact, no Hessian": mc.Implicit("exact", hessian_free=True),
}


def wrong(meta, exact):
    """Finite, more than a tenth off, and without a flag."""
    far = jnp.all(jnp.isfinite(meta.by_theta)) and relative_error(meta.by_theta, exact) > 0.1
    return bool(far) and not meta.aux["flags"].any()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("name", SOLVES)
def test_more_unknowns_than_equations(name, dtype):
    rng = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)
    x, shift = normal(5, 20), normal(5, 3)
    inner = lambda phi, theta, y: jnp.sum((x @ phi - y - shift @ theta) ** 2) / 2
    z, theta, solver = normal(5), jnp.zeros(3, dtype), mc.descend(optax.sgd(0.02), 500)
    phi = jnp.linalg.pinv(x) @ z

    # Of the minimum-norm solution, which is where gradient descent from 0 ends.
    seen = mc.Problem(lambda *_: jnp.zeros(20, dtype), inner, lambda p, t, y: jnp.sum(x @ p) ** 2)
    exact = jax.grad(lambda s: jnp.sum(x @ (phi + jnp.linalg.pinv(x) @ shift @ s)) ** 2)(theta)
    solved = flagged(seen, solver, SOLVES[name], theta, z)
    assert not wrong(solved, exact)
    if name.startswith("cg"):
        assert not solved.aux["flags"].any() and relative_error(solved.by_theta, exact) < 1e-3

    # An outer loss with a slope along weights that no equation holds.
    v = normal(7, 20)
    loose = mc.Problem(seen.init, inner, lambda phi, theta, y: jnp.mean((v @ phi - 1) ** 2))
    assert flagged(loose, solver, SOLVES[name], theta, z).aux["flags"].unconverged


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("name", SOLVES)
def test_curvatures_that_span_eight_decades(name, dtype):
    h = jnp.logspace(-8, 0, 40, dtype=dtype)
    c = jnp.asarray(np.random.default_rng(1).normal(size=40), dtype)
    problem = mc.Problem(
        init=lambda theta, z: theta + c,
        inner=lambda phi, theta, z: jnp.sum(h * (phi - theta - c) ** 2) / 2,
        outer=lambda phi, theta, z: jnp.sum(phi**2) / 2,
    )
    theta = jnp.ones(40, dtype)
    meta = flagged(problem, lambda loss, phi: phi, SOLVES[name], theta)
    assert not wrong(meta, theta + c)
    if name == "exact":
        assert not meta.aux["flags"].any()


# Rounded, not finite


def test_phases_that_the_arithmetic_cannot_tell_apart():
    theta, z = jax.tree.map(lambda x: x.astype(jnp.float32), random_quadratic(0))
    solver = mc.closed_form()
    for raised in ways(PENALTY, solver, mc.Contrastive(1e-7), jnp.zeros(3, jnp.float32), TARGET_32):
        assert "rounded" in raised
    fine = mc.meta_gradient(quadratic, solver, mc.Contrastive(1e-2))(theta, z)
    assert not fine.aux["flags"].any()
    assert relative_error(fine.by_theta, quadratic_hypergradient(theta, z)) < 0.05


def test_what_is_not_finite():
    solver = mc.descend(optax.sgd(100.0), 400)
    for rule in (mc.Contrastive(0.1), mc.Unrolled(), mc.FirstOrder(), mc.Implicit("cg")):
        problem = PENALTY
        if isinstance(rule, mc.FirstOrder):
            problem = mc.Problem(lambda theta, t: theta, PENALTY.inner, PENALTY.outer)
        meta = flagged(problem, solver, rule, jnp.zeros(3), TARGET)
        assert meta.aux["flags"].nonfinite


# A curvature that is no number


def test_nothing_finite_comes_out_of_a_curvature_that_is_nan():
    """The second derivative of |x|^1.5 at 0 is infinite, and its product with 0 is NaN."""
    problem = mc.Problem(
        init=lambda theta, z: jnp.array([0.0, 1.0]),
        inner=lambda phi, theta, z: jnp.sum(jnp.abs(phi) ** 1.5 + phi**2) - theta @ phi,
        outer=lambda phi, theta, z: jnp.sum((phi - 1.0) ** 2),
    )
    theta, stay = jnp.ones(2), lambda loss, phi: phi
    slope = jax.grad(lambda phi: problem.inner(phi, theta, None))
    phi = problem.init(theta, None)
    assert jnp.all(jnp.isfinite(slope(phi)))
    for solver in (mc.newton_cg(1e-6), mc.closed_form(), mc.closed_form(iterations=5)):
        solution = mc.solve_inner(problem, solver, theta, None)
        assert jnp.all(jnp.isnan(solution.phi)) and not solution.converged
        meta = flagged(problem, solver, mc.Contrastive(0.1), theta)
        assert jnp.all(jnp.isnan(meta.by_theta)) and meta.aux["flags"].nonfinite
    for rule in SOLVES.values():
        if rule.hessian_free:
            continue
        meta = flagged(problem, stay, rule, theta)
        assert jnp.all(jnp.isnan(meta.by_theta)) and meta.aux["flags"].nonfinite
    with pytest.raises(ValueError, match="curvature"):
        mc.meta_gradient(problem, stay, mc.Implicit("cg"))(theta, None)


# No false alarms


@pytest.mark.parametrize("name", CASES)
def test_no_alarm_on_what_is_well_posed(name):
    problem, theta, z, rate = CASES[name]()
    solver = mc.descend(optax.sgd(rate, momentum=0.5), 500)
    rules = {row: rule for row, rule in ROWS.items() if row in {**CONTRASTS, **IMPLICIT}}
    rules["implicit neumann"] = mc.Implicit("neumann", 500, rate=rate)
    if name == "network":  # of which a row compiles for a second
        rules = {row: rules[row] for row in ("forward", "linear damped", "implicit cg")}
    gradients = {row: mc.meta_gradient(problem, solver, rule) for row, rule in rules.items()}
    told = jax.jit(lambda *at: {row: f(*at).aux["flags"] for row, f in gradients.items()})
    alarms = {row: flags.raised() for row, flags in told(theta, z).items()}
    assert alarms == {row: [] for row in rules}
