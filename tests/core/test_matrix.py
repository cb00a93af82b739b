"""Every estimator with every solver: a number held against theory, or an error that names both.

A column is one compiled program, which runs all estimators that go with its solver.
"""

from functools import cache

import jax
import jax.numpy as jnp
import pytest
from jax.flatten_util import ravel_pytree
from matrix_problems import CASES, SOLVERS, distance, exact, problem_of

import metacontrast as mc

BETA, DAMPING = 0.02, 0.5
CONTRASTS = {  # and their order
    "forward": (mc.Contrastive(BETA), 1),
    "backward": (mc.Contrastive(-BETA), 1),
    "forward-2": (mc.Contrastive(BETA, order=2), 2),
    "control": (mc.Contrastive(BETA, control=True), 1),
    "symmetric": (mc.Contrastive(BETA, "symmetric"), 2),
    "symmetric-4": (mc.Contrastive(BETA, "symmetric", 4), 4),
    "holomorphic-4": (mc.Contrastive(BETA, "holomorphic", 4), 4),
    "linear": (mc.Contrastive(BETA, "symmetric", nudge="linear"), 2),
    "linear-forward": (mc.Contrastive(BETA, nudge="linear"), 1),
    "damped": (mc.Contrastive(BETA, "symmetric", nudge="linear", damping=DAMPING), 2),
}
IMPLICIT = {
    "cg": mc.Implicit("cg", 30),
    "neumann": mc.Implicit("neumann", 600, rate=0.08),
    "exact": mc.Implicit("exact"),
    "hessian_free": mc.Implicit("cg", 12, hessian_free=True),
}
# Of 400 steps or more, 200 from the end, where what came before no longer matters.
UNROLLED = {
    "unrolled": mc.Unrolled(),
    "truncated": mc.Unrolled(truncate=200),
    "rematerialised": mc.Unrolled(remat=True),
}
BIASED = {
    "identity": mc.Implicit("identity"),
    "first-order": mc.FirstOrder(),
    "reptile": mc.Reptile(),
    "evolution": mc.Evolution(1e-2, pairs=4),
}
ESTIMATORS = {name: rule for name, (rule, _) in CONTRASTS.items()} | IMPLICIT | UNROLLED | BIASED

COLUMNS = [(p, s) for p in CASES for s in SOLVERS if (p, s) != ("network", "closed_form")]
STOP = ("until_converged", "lbfgs", "anderson", "newton_cg")  # at a tolerance
COMPLEX = ("descend", "sampled", "until_converged")


def works(solver, estimator):
    if estimator in UNROLLED:
        return solver not in STOP
    return estimator != "holomorphic-4" or solver in COMPLEX


@cache
def column(problem, solver):
    """`estimator -> MetaGradient` of all that work, from one program."""
    _, theta, task, *_ = case = CASES[problem]()
    learner, learn = problem_of(problem, solver), SOLVERS[solver](case)
    rules = {name: rule for name, rule in ESTIMATORS.items() if works(solver, name)}
    gradients = {
        name: mc.meta_gradient(learner, learn, rule, by_z=False) for name, rule in rules.items()
    }

    @jax.jit
    def every(theta, task, key):
        metas = {name: f(theta, task, key) for name, f in gradients.items()}
        return {name: meta._replace(aux={}) for name, meta in metas.items()}

    return every(theta, task, jax.random.key(0))


@cache
def delta(problem, solver):
    """How far from the minimiser the free phase stops."""
    return distance(column(problem, solver)["forward"].phases.free.phi, exact(problem)[0])


@pytest.mark.parametrize(("problem", "solver"), COLUMNS)
def test_solvers_find_the_minimiser(problem, solver):
    # A line search on values sees the loss fall as long as |g| is above the root of round-off, and
    # evolution strategies minimise the loss smoothed over sigma = 1e-4.
    bound = {"lbfgs": 1e-8, "evolve": 1e-7}.get(solver, 1e-10)
    assert delta(problem, solver) < bound


def truth(problem, estimator):
    return exact(problem, DAMPING if estimator == "damped" else 0.0)[1]


def reference(estimator):
    """The column whose phases are solved to 1e-12."""
    return "until_converged" if estimator == "holomorphic-4" else "newton_cg"


@cache
def nudge_error(problem, estimator):
    """The error that is the nudge's alone: that of phases solved to 1e-12."""
    meta = column(problem, reference(estimator))[estimator]
    return distance(meta.by_theta, truth(problem, estimator))


@pytest.mark.parametrize("estimator", ["forward", "forward-2", "symmetric", "linear", "damped"])
def test_the_error_falls_as_beta_to_the_order(estimator):
    learner, theta, task, *_ = CASES["network"]()
    rule, order = CONTRASTS[estimator]

    @jax.jit
    def wide(beta):
        wider = mc.Contrastive(
            beta, rule.scheme, rule.order, nudge=rule.nudge, damping=rule.damping
        )
        gradient = mc.meta_gradient(learner, mc.newton_cg(1e-12), wider, by_z=False)
        return gradient(theta, task).by_theta

    ratio = distance(wide(4 * BETA), truth("network", estimator))
    ratio /= nudge_error("network", estimator)
    assert 0.6 * 4**order < ratio < 1.8 * 4**order


@cache
def steep(problem):
    """How fast the implicit gradient changes with phi: its Jacobian's norm at the minimiser."""
    learner, theta, task, *_ = CASES[problem]()
    x, unravel = ravel_pytree(exact(problem)[0])

    def grad(x):
        still = mc.as_solver(lambda loss, phi: unravel(x))
        meta = mc.meta_gradient(learner, still, mc.Implicit("exact"), by_z=False)(theta, task)
        return ravel_pytree(meta.by_theta)[0]

    return float(jnp.linalg.norm(jax.jit(jax.jacfwd(grad))(x), 2))


@cache
def cross(problem):
    """The norms of `d2L_in/dphi dtheta` and `d2L_out/dphi dtheta` at the minimiser."""
    learner, theta, task, *_ = CASES[problem]()
    x, unravel = ravel_pytree(exact(problem)[0])
    flat, back = ravel_pytree(theta)

    def norm(part):
        slope = jax.grad(lambda x, flat: part(unravel(x), back(flat), task), 1)
        return float(jnp.linalg.norm(jax.jit(jax.jacfwd(slope))(x, flat), 2))

    return norm(learner.inner), norm(learner.outer)


def missed(problem, solver, estimator):
    """What phases that miss their minimisers by delta_k do to the contrast, to first order:

    `sum_k |w_k| (B_in + |b_k| B_out) delta_k`, the paper's bound for any stencil. The constants are
    those at the free minimiser; the nudged ones are within 0.1 of it, hence the factor 2. A linear
    nudge is weighted by its size, and moves with phi_0 as the implicit gradient does.
    """
    rule, _ = CONTRASTS[estimator]
    b_in, b_out = cross(problem)
    learner, theta, task, *_ = CASES[problem]()
    scale = 1.0
    if rule.nudge == "linear":
        v = jax.grad(learner.outer)(exact(problem)[0], theta, task)
        scale, b_out = float(jnp.linalg.norm(ravel_pytree(v)[0])), 0.0
    points = mc.stencil(rule.scheme, rule.order, rule.beta)
    ends, best = (
        [start.phi for start in column(problem, name)[estimator].phases.nudged]
        for name in (solver, reference(estimator))
    )
    nodes, weights = list(points.nodes), list(points.weights)
    total = 2 * steep(problem) * delta(problem, solver) if rule.nudge == "linear" else 0.0
    if points.free is not None:
        total += abs(points.free) * scale * b_in * delta(problem, solver)
        if rule.control:
            nodes, weights = [0.0, *nodes], [points.free, *weights]
    for b, w, phi, minimiser in zip(nodes, weights, ends, best, strict=True):
        total += abs(w) * scale * (b_in + abs(b) * b_out) * distance(phi, minimiser)
    return 2 * total


@pytest.mark.parametrize(("problem", "solver"), COLUMNS)
@pytest.mark.parametrize("estimator", CONTRASTS)
def test_contrasts(problem, solver, estimator):
    if not works(solver, estimator):
        return refused(problem, solver, estimator, "solver: the holomorphic scheme")
    error = distance(column(problem, solver)[estimator].by_theta, truth(problem, estimator))
    # c1 beta^p is measured, to within what its own phases, solved to 1e-12, leave.
    floor = 2e-12 * (1 + cross(problem)[0]) / BETA
    assert (
        error < 1.01 * nudge_error(problem, estimator) + missed(problem, solver, estimator) + floor
    )


@pytest.mark.parametrize(("problem", "solver"), COLUMNS)
@pytest.mark.parametrize("estimator", IMPLICIT)
def test_implicit(problem, solver, estimator):
    error = distance(column(problem, solver)[estimator].by_theta, exact(problem)[1])
    # The linear solves end at 1e-12, central differences at eps^(2/3) of what they differentiate.
    floor = 1e-8 if estimator == "hessian_free" else 1e-11
    assert error < floor + 2 * steep(problem) * delta(problem, solver)


@pytest.mark.parametrize(("problem", "solver"), COLUMNS)
@pytest.mark.parametrize("estimator", UNROLLED)
def test_unrolled(problem, solver, estimator):
    if not works(solver, estimator):
        return refused(problem, solver, estimator, "solver: Unrolled")
    error = distance(column(problem, solver)[estimator].by_theta, exact(problem)[1])
    # Both phi and its derivative by theta converge at the same rate, the latter times the number
    # of steps; 1e-9 is what is left of that after these. That of an evolution strategy is of the
    # loss smoothed over sigma, and errs by sigma^2 times a fourth derivative, below 100.
    floor = 1e-6 if solver == "evolve" else 1e-9
    assert error < floor + 2 * steep(problem) * delta(problem, solver)


@pytest.mark.parametrize(("problem", "solver"), COLUMNS)
@pytest.mark.parametrize("estimator", BIASED)
def test_biased_rules_do_not_depend_on_how_the_minimiser_was_reached(problem, solver, estimator):
    grad, other = (column(problem, name)[estimator].by_theta for name in (solver, "newton_cg"))
    # Evolution strategies draw the same perturbations, and divide by their size.
    assert distance(grad, other) < (1e-5 if estimator == "evolution" else 1e-7)


def refused(problem, solver, estimator, words):
    """The error names both sides."""
    learner, theta, task, *_ = case = CASES[problem]()
    learn = SOLVERS[solver](case)
    gradient = mc.meta_gradient(learner, learn, ESTIMATORS[estimator], by_z=False)
    with pytest.raises(TypeError, match=words) as error:
        jax.eval_shape(gradient, theta, task)
    assert repr(learn) in str(error.value)


def test_evolution_agrees_within_its_sampling_error():
    learner, theta, task, *_ = CASES["ridge"]()
    pairs = 4000
    rule = mc.Evolution(sigma=1e-3, pairs=pairs)
    meta = mc.meta_gradient(learner, mc.closed_form(), rule)(theta, task, jax.random.key(0))
    grad = exact("ridge")[1]
    # The covariance of e (e'g) is |g|^2 I + g g': a relative error of sqrt((n + 1) / pairs).
    size = distance(grad, jax.tree.map(jnp.zeros_like, grad))
    assert distance(meta.by_theta, grad) < 2 * size * (7 / pairs) ** 0.5
