"""The contrast as an adjoint of optimistix."""

import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest

from metacontrast.optimistix import ContrastiveAdjoint

MATRIX = jnp.array([[2.0, 0.3, -0.4], [0.3, 1.5, 0.2], [-0.4, 0.2, 1.0]])
TASK = jnp.array([1.0, -0.5, 2.0])
THETA = {"log_lam": jnp.array([0.3, -0.2, 0.1]), "x": jnp.array([0.5, 1.5, -1.0])}
DESCENT = optx.GradientDescent(0.1, rtol=1e-15, atol=1e-15)


def quadratic(phi, log_lam, x):
    d = phi["w"] - TASK
    return 0.5 * d @ MATRIX @ d + jnp.sum(jnp.exp(log_lam) * (phi["w"] - x) ** 2)


def closed_form(theta):
    lam = 2 * jnp.exp(theta["log_lam"])
    return jnp.linalg.solve(MATRIX + jnp.diag(lam), MATRIX @ TASK + lam * theta["x"])


def gradient(solve):
    """Of any function of the minimiser, and of theta besides."""

    def followed(theta):
        w = solve(theta)
        return jnp.sum(jnp.sin(w)) + w[0] * theta["x"][1] + jnp.sum(w**2)

    return jax.jit(jax.grad(followed))(THETA)


def minimised(adjoint, solver=DESCENT):
    def solve(theta):
        # Half of theta through args, and half through what the function closes over.
        fn = lambda phi, x: quadratic(phi, theta["log_lam"], x)
        y0, settings = {"w": jnp.zeros(3)}, {"max_steps": 2000, "throw": False}
        return optx.minimise(fn, solver, y0, theta["x"], adjoint=adjoint, **settings).value["w"]

    return solve


def same(a, b, rtol):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol), a, b)


@pytest.mark.parametrize("beta", [1.0, 0.1])
def test_exact_for_quadratic_losses_whatever_beta(beta):
    # Round-off of the minimisers, some 100 eps, is divided by beta.
    same(gradient(minimised(ContrastiveAdjoint(beta))), gradient(closed_form), 1e-12)


def test_it_is_the_implicit_adjoint():
    # BFGS searches along lines by values, so it stops about 1e-8 from the minimum.
    bfgs = optx.BFGS(rtol=1e-12, atol=1e-12)
    implicit = gradient(minimised(optx.ImplicitAdjoint(), bfgs))
    same(gradient(minimised(ContrastiveAdjoint(1.0), bfgs)), implicit, 1e-7)


def test_nudged_solves_start_at_the_minimum():
    # From where the first one starts, near the top of a double well, the nudge would choose the
    # well. At the bottom the curvature is 8; the scheme errs by beta^2 times 24 / 8^3 or so.
    def solve(theta):
        fn = lambda y, theta: (y**2 - 1) ** 2 - theta * y
        adjoint = ContrastiveAdjoint(0.1)
        return optx.minimise(fn, DESCENT, 0.001, theta, adjoint=adjoint, throw=False).value

    value, slope = jax.jit(jax.value_and_grad(solve))(jnp.array(0.0))
    np.testing.assert_allclose((value, slope), (1.0, 1 / 8), rtol=0.01)


def test_an_argument_that_is_no_array():
    def solve(theta, twice):
        fn = lambda y, twice: (y - theta) ** 2 + twice * y**2
        return optx.minimise(
            fn, DESCENT, 0.0, twice, adjoint=ContrastiveAdjoint(), throw=False
        ).value

    np.testing.assert_allclose(jax.grad(solve)(jnp.array(1.0), 2.0), 1 / 3, rtol=1e-9)


def test_aux_whole_numbers_and_vmap():
    def loss(theta):
        fn = lambda y, args: (
            jnp.sum((y - args["x"]) ** 2 + args["n"] * y**2),
            {"norm": jnp.sum(y), "n": 3},
        )
        solution = optx.minimise(
            fn,
            optx.BFGS(1e-12, 1e-12),
            jnp.zeros(2),
            {"x": theta, "n": jnp.array([1, 1])},
            has_aux=True,
            adjoint=ContrastiveAdjoint(0.5),
        )
        return jnp.sum(solution.value**2)

    thetas = jnp.array([[1.0, -2.0], [0.5, 3.0]])
    same(jax.jit(jax.vmap(jax.grad(loss)))(thetas), thetas / 2, 1e-9)


def test_a_bad_beta_is_named():
    with pytest.raises(ValueError, match="beta: must be positive"):
        ContrastiveAdjoint(beta=0.0)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"scheme": "holomorphic"}, "scheme: the minimisers of optimistix do not learn in complex"),
        ({"scheme": "backward"}, "scheme: must be 'forward', .*, not 'backward'"),
        ({"order": 3}, "order: the symmetric scheme needs an even whole number"),
        ({"damping": -1.0}, "damping: must be at least 0"),
        ({"damping": float("nan")}, "damping: must be at least 0"),
    ],
)
def test_bad_settings_are_named(bad, message):
    with pytest.raises(ValueError, match=message):
        ContrastiveAdjoint(**bad)
