"""Every estimator with every solver on every problem, against dense implicit differentiation."""

from functools import cache

import jax
import jax.numpy as jnp
import pytest
from jax.flatten_util import ravel_pytree
from matrix_problems import CASES, PAIRS, PROBLEMS, distance, exact, solver

import metacontrast as mc
from metacontrast._holomorphic import complexified
from metacontrast._stencil import stencil

BETA = 0.02
CONTRASTS = {
    "forward": (mc.Contrastive(BETA), 1),
    "backward": (mc.Contrastive(-BETA), 1),
    "forward-2": (mc.Contrastive(BETA, order=2), 2),
    "symmetric": (mc.Contrastive(BETA, "symmetric"), 2),
    "symmetric-4": (mc.Contrastive(BETA, "symmetric", 4), 4),
}
ANALYTIC = ("descend", "until_converged")  # solvers that can learn in complex numbers
COMPLEX = {"holomorphic-4": (mc.Contrastive(BETA, "holomorphic", 4), 4)}
IMPLICIT = {
    "cg": lambda rate: mc.Implicit("cg", 30),
    "neumann": lambda rate: mc.Implicit("neumann", 600, rate=rate),
    "exact": lambda rate: mc.Implicit("exact"),
    "hessian_free": lambda rate: mc.Implicit("cg", 12, hessian_free=True),
}


def grad_of(problem, estimator, solver_name):
    learner, theta, task, _ = CASES[problem]()
    return estimator.value_and_grad(learner, solver(problem, solver_name), theta, task)[1]


@cache
def delta(problem, solver_name):
    """How far from the minimiser the free phase stops."""
    learner, theta, task, _ = CASES[problem]()
    found = mc.learn(learner, solver(problem, solver_name), theta, task)
    return distance(found.phi, exact(problem)[0])


@cache
def nudge_error(problem, estimator):
    """The error that is the nudge's alone: that of phases solved to 1e-12."""
    rule, _ = (CONTRASTS | COMPLEX)[estimator]
    name = "until_converged" if estimator in COMPLEX else "newton_cg"
    return distance(grad_of(problem, rule, name), exact(problem)[1])


@pytest.mark.parametrize(("problem", "solver_name"), PAIRS)
def test_solvers_find_the_minimiser(problem, solver_name):
    # A line search on values sees the loss fall as long as |g| is above the root of round-off, and
    # evolution strategies minimise the loss smoothed over sigma = 1e-4.
    bound = {"lbfgs": 1e-8, "evolve": 1e-7}.get(solver_name, 1e-10)
    assert delta(problem, solver_name) < bound


@pytest.mark.parametrize("estimator", CONTRASTS | COMPLEX)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_error_falls_as_beta_to_the_order(problem, estimator):
    rule, order = (CONTRASTS | COMPLEX)[estimator]
    wide = mc.Contrastive(4 * rule.beta, rule.scheme, rule.order)
    name = "until_converged" if estimator in COMPLEX else "newton_cg"
    ratio = distance(grad_of(problem, wide, name), exact(problem)[1])
    ratio /= nudge_error(problem, estimator)
    assert 0.6 * 4**order < ratio < 1.8 * 4**order


def phase(problem, solver_name, beta):
    """Where a phase stops, from where the free one did; and how far that is from its minimiser."""
    learner, theta, task, _ = CASES[problem]()
    loss = learner.loss(theta, task)
    phi = mc.learn(learner, solver(problem, solver_name), theta, task).phi
    if beta == 0:
        return phi, delta(problem, solver_name)
    phi = complexified(phi) if isinstance(beta, complex) else phi
    phi = solver(problem, solver_name)(loss.nudged(beta), phi).phi
    best = "until_converged" if isinstance(beta, complex) else "newton_cg"
    return phi, distance(phi, solver(problem, best)(loss.nudged(beta), phi).phi)


@cache
def cross(problem):
    """The norms of `d2L_in/dphi dtheta` and `d2L_out/dphi dtheta` at the minimiser."""
    learner, theta, task, _ = CASES[problem]()
    phi, unravel = ravel_pytree(exact(problem)[0])
    flat, back = ravel_pytree(theta)

    def norm(part):
        slope = jax.grad(lambda phi, flat: part(unravel(phi), back(flat), task), 1)
        return float(jnp.linalg.norm(jax.jit(jax.jacfwd(slope))(phi, flat), 2))

    return norm(learner.inner), norm(learner.outer)


def missed(problem, solver_name, estimator):
    """What phases that miss their minimisers by delta_k do to the contrast, to first order:

    `sum_k |w_k| (B_in + |b_k| B_out) delta_k`, the talk's bound for any stencil. The constants are
    those at the free minimiser; the nudged ones are within 0.1 of it, hence the factor 2.
    """
    rule, _ = (CONTRASTS | COMPLEX)[estimator]
    b_in, b_out = cross(problem)
    total = 0.0
    for b, w in zip(*stencil(rule.scheme, rule.order, rule.beta), strict=True):
        total += abs(w) * (b_in + abs(b) * b_out) * phase(problem, solver_name, b)[1]
    return 2 * total


REAL = [(*pair, name) for pair in PAIRS for name in CONTRASTS]
CAN = [(*pair, name) for pair in PAIRS for name in COMPLEX if pair[1] in ANALYTIC]


@pytest.mark.parametrize(("problem", "solver_name", "estimator"), REAL + CAN)
def test_contrasts(problem, solver_name, estimator):
    rule, _ = (CONTRASTS | COMPLEX)[estimator]
    error = distance(grad_of(problem, rule, solver_name), exact(problem)[1])
    # c1 beta^p is measured, to within what its own phases, solved to 1e-12, leave.
    assert error < 1.01 * nudge_error(problem, estimator) + missed(problem, solver_name, estimator)


@cache
def steep(problem):
    """How fast the implicit gradient changes with phi: its Jacobian's norm at the minimiser."""
    learner, theta, task, _ = CASES[problem]()
    phi, unravel = ravel_pytree(exact(problem)[0])

    def grad(phi):
        rule = mc.Implicit("exact")
        found = rule.value_and_grad(learner, lambda loss, phi0: unravel(phi), theta, task)[1]
        return ravel_pytree(found)[0]

    return float(jnp.linalg.norm(jax.jit(jax.jacfwd(grad))(phi), 2))


IMPLICITLY = [(*pair, name) for pair in PAIRS for name in IMPLICIT]


@pytest.mark.parametrize(("problem", "solver_name", "estimator"), IMPLICITLY)
def test_implicit(problem, solver_name, estimator):
    rule = IMPLICIT[estimator](CASES[problem]().rate)
    error = distance(grad_of(problem, rule, solver_name), exact(problem)[1])
    # The linear solves end at 1e-12, central differences at eps^(2/3) of what they differentiate.
    floor = 1e-8 if estimator == "hessian_free" else 1e-11
    assert error < floor + 2 * steep(problem) * delta(problem, solver_name)


DIFFERENTIABLE = ("descend", "closed_form", "gauss_newton")


@pytest.mark.parametrize(("problem", "solver_name"), [p for p in PAIRS if p[1] in DIFFERENTIABLE])
def test_unrolled(problem, solver_name):
    error = distance(grad_of(problem, mc.Unrolled(), solver_name), exact(problem)[1])
    # Both phi and its derivative by theta converge at the same rate, the latter times the number
    # of steps; 1e-9 is what is left of that after these.
    assert error < 1e-9 + 2 * steep(problem) * delta(problem, solver_name)


BIASED = [mc.FirstOrder(), mc.Reptile(), mc.Implicit("identity")]
STARTING_FROM_THETA = [pair for pair in PAIRS if pair[0] != "ridge"]


@pytest.mark.parametrize("estimator", BIASED)
@pytest.mark.parametrize(("problem", "solver_name"), STARTING_FROM_THETA)
def test_biased_rules_do_not_depend_on_how_the_minimiser_was_found(problem, solver_name, estimator):
    found = grad_of(problem, estimator, solver_name)
    assert distance(found, grad_of(problem, estimator, "newton_cg")) < 1e-7


def test_evolution_agrees_within_its_sampling_error():
    learner, theta, task, _ = CASES["quadratic"]()
    pairs = 4000
    rule = mc.Evolution(sigma=1e-3, pairs=pairs)
    solve = solver("quadratic", "closed_form")
    _, grad = rule.value_and_grad(learner, solve, theta, task, jax.random.key(0))
    _, truth = exact("quadratic")
    # The covariance of e (e'g) is |g|^2 I + g g': a relative error of sqrt((n + 1) / pairs).
    size = distance(truth, jax.tree.map(lambda g: 0 * g, truth))
    assert distance(grad, truth) < 2 * size * (9 / pairs) ** 0.5
