"""Every estimator with every solver on every problem, against dense implicit differentiation."""

from functools import cache

import jax
import pytest
from matrix_problems import CASES, PAIRS, PROBLEMS, distance, exact, solver

import metacontrast as mc

BETA = 0.02
CONTRASTS = {
    "forward": (mc.Contrastive(BETA), 1),
    "backward": (mc.Contrastive(-BETA), 1),
    "forward-2": (mc.Contrastive(BETA, order=2), 2),
    "symmetric": (mc.Contrastive(BETA, "symmetric"), 2),
    "symmetric-4": (mc.Contrastive(BETA, "symmetric", 4), 4),
}
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


REAL = [(*pair, name) for pair in PAIRS for name in ("forward", "symmetric", "symmetric-4")]
CAN = [(*pair, name) for pair in PAIRS for name in COMPLEX if pair[1] == "descend"]


@pytest.mark.parametrize(("problem", "solver_name", "estimator"), REAL + CAN)
def test_contrasts(problem, solver_name, estimator):
    rule, _ = (CONTRASTS | COMPLEX)[estimator]
    error = distance(grad_of(problem, rule, solver_name), exact(problem)[1])
    # c1 beta^p is measured; c2 of the second term c2 delta / beta is |d2L/dphi dtheta| and weights.
    assert error < 1.01 * nudge_error(problem, estimator) + 30 * delta(problem, solver_name) / BETA


# Of the solver, an implicit rule sees no more than the phi that it found.
FOUND = [(*p, "exact") for p in PAIRS if p[1] in ("descend", "lbfgs", "evolve")]
LINEAR = [(problem, "newton_cg", name) for problem in PROBLEMS for name in IMPLICIT]


@pytest.mark.parametrize(("problem", "solver_name", "estimator"), sorted({*FOUND, *LINEAR}))
def test_implicit(problem, solver_name, estimator):
    rule = IMPLICIT[estimator](CASES[problem]().rate)
    error = distance(grad_of(problem, rule, solver_name), exact(problem)[1])
    floor = 1e-8 if estimator == "hessian_free" else 1e-11
    assert error < floor + 30 * delta(problem, solver_name)


DIFFERENTIABLE = ("descend", "closed_form", "gauss_newton")


@pytest.mark.parametrize(("problem", "solver_name"), [p for p in PAIRS if p[1] in DIFFERENTIABLE])
def test_unrolled(problem, solver_name):
    error = distance(grad_of(problem, mc.Unrolled(), solver_name), exact(problem)[1])
    assert error < 1e-9 + 30 * delta(problem, solver_name)


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
