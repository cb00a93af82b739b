"""What the contrast as an adjoint differentiates, and how it says that it cannot."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optimistix as optx
import pytest

from metacontrast.optimistix import ContrastiveAdjoint
from metacontrast.optimistix._adjoint import _accuracy

pytestmark = pytest.mark.thorough

THETA = jnp.array([1.0, 2.0])
MATRIX = jnp.array([[2.0, 1.0], [-0.5, 1.5]])  # not symmetric


def same(a, b, rtol):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol), a, b)


V, TANGENT = jnp.array([1.0, -0.5]), jnp.array([0.3, 2.0])


def backward(solve):
    return jax.jit(lambda theta: jax.vjp(solve, theta)[1](V)[0])(THETA)


def forward(solve):
    return jax.jit(lambda theta: jax.jvp(solve, (theta,), (TANGENT,))[1])(THETA)


def quartic(y, theta):
    """Least at the cube root of theta, a half of which is closed over."""
    return jnp.sum(0.25 * y**4 - theta * y)


def minimised(solver, adjoint, **words):
    def solve(theta):
        fn = lambda y, half: quartic(y, half + theta / 2)
        words.setdefault("max_steps", 2000)
        y0 = jnp.array([1.1, 1.2])
        return optx.minimise(fn, solver, y0, theta / 2, adjoint=adjoint, **words).value

    return solve


BENT = 3 * THETA ** (2 / 3)  # the curvature at the minimum, of which the slope falls as theta
DESCENT = optx.GradientDescent(0.15, 1e-14, 1e-14)
TIGHT = (1e-10, 1e-10)


@pytest.mark.parametrize(
    "solver",
    [
        optx.BFGS(*TIGHT),
        optx.LBFGS(*TIGHT),
        optx.NonlinearCG(*TIGHT),
        optx.GradientDescent(0.1, *TIGHT),
        optx.OptaxMinimiser(optax.adam(0.02), *TIGHT),
        optx.NelderMead(*TIGHT),
    ],
    ids=lambda solver: type(solver).__name__,
)
def test_minimisers(solver):
    # Those that search by values stop 1e-8 from the minimum, and the nudge is longer than that.
    same(backward(minimised(solver, ContrastiveAdjoint())), V / BENT, 1e-4)


def test_forward_mode():
    same(forward(minimised(optx.BFGS(*TIGHT), ContrastiveAdjoint())), TANGENT / BENT, 1e-4)


def test_damping_is_added_to_the_curvature():
    adjoint = ContrastiveAdjoint(damping=0.7)
    same(backward(minimised(optx.BFGS(*TIGHT), adjoint)), V / (BENT + 0.7), 1e-4)


@pytest.mark.parametrize(("scheme", "order", "falls"), [("forward", 1, 1), ("symmetric", 4, 4)])
def test_schemes_and_orders_at_a_traced_beta(scheme, order, falls):
    @jax.jit
    def error(beta):
        solve = minimised(DESCENT, ContrastiveAdjoint(beta, scheme, order), throw=False)
        return jnp.linalg.norm(jax.vjp(solve, THETA)[1](V)[0] - V / BENT)

    assert 0.6 * 2**falls < error(0.2) / error(0.1) < 1.7 * 2**falls


@pytest.mark.parametrize("derivative", [backward, forward])
def test_second_derivatives(derivative):
    solve = minimised(DESCENT, ContrastiveAdjoint(), throw=False)
    gradient = lambda solve: jax.grad(lambda theta: jnp.sum(jnp.sin(solve(theta))))
    same(derivative(gradient(solve)), derivative(gradient(jnp.cbrt)), 1e-4)


def test_the_second_derivative_that_was_0():
    # y = theta^2 / 2 minimises y^2 - theta^2 y, and bends by 1.
    def solve(theta):
        fn = lambda y, theta: y**2 - theta**2 * y
        adjoint, settings = ContrastiveAdjoint(0.1), {"throw": False}
        return optx.minimise(fn, DESCENT, jnp.array(0.3), theta, adjoint=adjoint, **settings).value

    np.testing.assert_allclose(jax.jit(jax.grad(jax.grad(solve)))(1.5), 1.0, rtol=1e-6)


def field(y, theta):
    return MATRIX @ y + 0.1 * jnp.sin(y) - theta


def root(solver):
    return lambda adjoint: (
        lambda theta: optx.root_find(field, solver, jnp.zeros(2), theta, adjoint=adjoint).value
    )


def fixed_point(solver):
    still = lambda y, theta: y - 0.3 * field(y, theta)
    return lambda adjoint: (
        lambda theta: optx.fixed_point(still, solver, jnp.zeros(2), theta, adjoint=adjoint).value
    )


def least_squares(solver):
    residuals = lambda y, theta: {"field": field(y, theta), "near": y - jnp.sin(theta)}
    return lambda adjoint: (
        lambda theta: (
            optx.least_squares(residuals, solver, jnp.zeros(2), theta, adjoint=adjoint).value
        )
    )


@pytest.mark.parametrize(
    ("derivative", "problem"),
    {
        "root, Newton": (backward, root(optx.Newton(*TIGHT))),
        "root, by squares": (backward, root(optx.LevenbergMarquardt(*TIGHT))),
        "fixed point": (backward, fixed_point(optx.FixedPointIteration(*TIGHT))),
        "fixed point, forwards": (forward, fixed_point(optx.Newton(*TIGHT))),
        "least squares": (backward, least_squares(optx.Dogleg(*TIGHT))),
    }.values(),
)
def test_other_problems(derivative, problem):
    true = derivative(problem(optx.ImplicitAdjoint()))
    same(derivative(problem(ContrastiveAdjoint())), true, 1e-5)


def test_the_nudged_minimiser():
    # Content after its first steps, which are too few.
    few = optx.GradientDescent(0.1, 0.5, 0.5)
    problem = root(optx.Newton(*TIGHT))
    assert jnp.isnan(backward(problem(ContrastiveAdjoint(nudged=few, throw=False)))).all()


def test_how_far_from_the_minimum_a_minimiser_may_stop():
    y = jnp.array([2.0, -0.5])
    assert float(_accuracy(optx.BFGS(1e-3, 1e-4), y)) == pytest.approx(1e-3 + 1e-4 / 2)
    # Values tell no smaller way than this.
    tightest = float(jnp.finfo(jnp.float64).eps) ** 0.5
    assert float(_accuracy(optx.BFGS(1e-15, 1e-15), y)) == pytest.approx(tightest)


def test_a_root_by_a_minimiser_is_refused():
    with pytest.raises(ValueError, match="adjoint: a minimiser finds a root as the least norm"):
        root(optx.BFGS(1e-6, 1e-6))(ContrastiveAdjoint())(THETA)


def well(y, theta):
    return (y**2 - 1) ** 2 - theta * y


@pytest.mark.parametrize(
    ("solver", "beta", "y0", "max_steps"),
    {
        # The curvature is 8, of which each step takes 8%: after 20, 19% of the nudge is left.
        "too few steps for the nudge": (optx.GradientDescent(1e-2, 1e-9, 1e-9), 0.1, 1.0, 20),
        "a nudge below the tolerance": (optx.GradientDescent(1e-2, 1e-6, 1e-6), 1e-5, 1.0, 100),
        "a nudge over the hill": (optx.GradientDescent(1e-2, 1e-9, 1e-9), 40.0, 1.0, 3),
        "the top of the hill": (optx.BFGS(1e-9, 1e-9), None, 0.0, 100),
    }.values(),
)
def test_a_nudged_solve_that_fails_is_an_error_or_no_number(solver, beta, y0, max_steps):
    def slope(throw):
        adjoint, settings = ContrastiveAdjoint(beta, throw=throw), {"max_steps": max_steps}
        solve = lambda theta: (
            optx.minimise(well, solver, jnp.array(y0), theta, adjoint=adjoint, **settings).value
        )
        return eqx.filter_jit(jax.value_and_grad(solve))(jnp.array(0.0))

    value, gradient = slope(throw=False)
    assert value == y0 and jnp.isnan(gradient)
    with pytest.raises(RuntimeError, match="ContrastiveAdjoint: a nudged solve found no minimum"):
        slope(throw=True)


def test_a_cotangent_of_0_asks_for_nothing():
    # What is left of a slope in such units is large, and no part of a nudge.
    fn = lambda y, theta: 1e12 * quartic(y, theta)
    find = lambda theta: (
        optx.minimise(
            fn, optx.BFGS(1e-8, 1e-8), jnp.ones(2), theta, adjoint=ContrastiveAdjoint()
        ).value
    )
    y, pull_back = jax.vjp(find, THETA)
    assert jnp.linalg.norm(jax.grad(fn)(y, THETA)) > 1
    assert jnp.all(pull_back(jnp.zeros(2))[0] == 0)


def test_no_error_where_the_minimum_itself_may_fail():
    # Far from it after 3 steps, which minimise was told to put up with.
    solve = minimised(
        optx.GradientDescent(1e-3, 1e-9, 1e-9), ContrastiveAdjoint(), max_steps=3, throw=False
    )
    value, pull_back = jax.vjp(solve, THETA)
    assert jnp.all(jnp.isfinite(value)) and jnp.all(jnp.isnan(pull_back(jnp.ones(2))[0]))
