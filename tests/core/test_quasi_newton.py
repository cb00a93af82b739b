import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import normal

import metacontrast as mc

ROOT = normal(0, 8, 8)
MATRIX = ROOT @ ROOT.T / 8 + 0.1 * jnp.eye(8)
CENTRE = {"a": normal(1, 5), "b": normal(2, 3)}
START = jax.tree.map(jnp.zeros_like, CENTRE)


def distance(phi):
    return optax.tree.norm(optax.tree.sub(phi, CENTRE))


def quadratic(phi):
    d, _ = jax.flatten_util.ravel_pytree(optax.tree.sub(phi, CENTRE))
    return 0.5 * d @ MATRIX @ d + 3.0


def convex(phi):
    return quadratic(phi) + jnp.sum(jnp.cosh(phi["a"] - CENTRE["a"]))


def rosenbrock(phi):
    return (1 - phi[0]) ** 2 + 100 * (phi[1] - phi[0] ** 2) ** 2


CONVERGING = {
    "lbfgs": mc.lbfgs(1e-7),
    "newton_cg": mc.newton_cg(1e-11),
    "anderson": mc.anderson(0.2, 1e-11),
}
ALL = CONVERGING | {"closed_form": mc.closed_form(), "by_cg": mc.closed_form(iterations=40)}


@pytest.mark.parametrize("name", ALL)
def test_quadratic(name):
    found = jax.jit(ALL[name], static_argnums=0)(quadratic, START)
    assert distance(found.phi) < (1e-6 if name == "lbfgs" else 1e-9)
    assert found.converged and found.steps >= 1
    slope = optax.tree.norm(jax.grad(quadratic)(found.phi))
    np.testing.assert_allclose(found.residual, slope, rtol=1e-3, atol=1e-13)


@pytest.mark.parametrize("name", CONVERGING)
def test_strictly_convex(name):
    found = jax.jit(CONVERGING[name], static_argnums=0)(convex, START)
    assert found.converged and distance(found.phi) < 1e-6


@pytest.mark.parametrize("solve", [mc.lbfgs(1e-6), mc.newton_cg(1e-8)])
def test_rosenbrock(solve):
    found = jax.jit(solve, static_argnums=0)(rosenbrock, jnp.array([-1.2, 1.0]))
    np.testing.assert_allclose(found.phi, 1.0, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_vmap_is_one_by_one(name):
    scales = jnp.array([0.5, 2.0])
    solve = lambda scale: ALL[name](lambda phi: scale * quadratic(phi), START).phi
    together = jax.jit(jax.vmap(solve))(scales)
    for i, scale in enumerate(scales):
        alone = jax.jit(solve)(scale)
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("make", [mc.lbfgs, mc.newton_cg, lambda *a: mc.anderson(0.2, *a)])
def test_out_of_steps_is_told(make):
    found = make(1e-9, 2)(convex, START)
    assert not found.converged and found.steps == 2 and found.residual > 1e-9


def test_closed_form_tells_that_a_loss_is_not_quadratic():
    assert not mc.closed_form()(convex, START).converged


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_what_closed_form_calls_converged_is_in_units_of_the_slope(scale):
    # Round-off of a slope of 1e6 is far above 1e-14, and far below what one step leaves elsewhere.
    assert mc.closed_form()(lambda phi: scale * quadratic(phi), START).converged
    assert scale < 1 or not mc.closed_form()(lambda phi: scale * convex(phi), START).converged


def test_anderson_is_gmres():
    # With nothing forgotten, n + 1 steps solve an n-dimensional quadratic; descent needs hundreds.
    found = mc.anderson(0.2, 1e-9, differences=8)(quadratic, START)
    assert found.converged and found.steps <= 10


def test_newton_cg_is_quadratically_fast():
    assert mc.newton_cg(1e-11)(convex, START).steps <= 8


def test_newton_cg_halves_steps_that_go_too_far():
    # A full step from x leads to -x^3.
    found = mc.newton_cg(1e-10)(lambda x: jnp.sum(jnp.sqrt(1 + x**2)), jnp.array([2.0, -1.5]))
    assert found.converged
    np.testing.assert_allclose(found.phi, 0.0, atol=1e-9)


@pytest.mark.thorough
def test_lbfgs_is_as_quick_as_the_pairs_it_keeps():
    few, many = (mc.lbfgs(1e-6, pairs=n)(quadratic, START) for n in (1, 20))
    assert few.converged and many.converged and few.steps > 1.5 * many.steps


@pytest.mark.parametrize("name", ALL)
def test_nothing_is_remembered_of_another_loss(name):
    assert ALL[name](quadratic, START).memory is None


def test_newton_cg_leaves_a_saddle():
    saddle = lambda phi: jnp.sum(phi**4) - jnp.sum(phi**2)  # negative curvature around 0
    found = mc.newton_cg(1e-9)(saddle, jnp.array([0.01, -0.02]))
    np.testing.assert_allclose(jnp.abs(found.phi), 0.5**0.5, rtol=1e-8)


def test_anderson_finds_where_lbfgs_line_searches_stall():
    # |g| of 1e-12 is far below what differences of values resolve.
    assert mc.anderson(0.1, 1e-12)(convex, START).converged


@pytest.mark.thorough
def test_float32():
    start = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), START)
    loss = lambda phi: jnp.sum((phi["a"] - 1) ** 2) + 3 * jnp.sum((phi["b"] + 1) ** 2)
    for solve in (mc.lbfgs(1e-4), mc.newton_cg(1e-4), mc.anderson(0.1, 1e-4), mc.closed_form()):
        found = solve(loss, start)
        assert found.phi["a"].dtype == jnp.float32
        np.testing.assert_allclose(found.phi["a"], 1.0, atol=1e-4)


def test_solved_at_the_start():
    for name, solve in ALL.items():
        assert distance(solve(quadratic, CENTRE).phi) < 1e-14, name


@pytest.mark.parametrize(
    ("match", "make"),
    [
        ("tol: must be positive", lambda: mc.lbfgs(0.0)),
        ("pairs: must be a whole number", lambda: mc.lbfgs(1e-6, pairs=0)),
        ("max_steps: must be a whole number", lambda: mc.newton_cg(1e-6, 0)),
        ("iterations: must be a whole number", lambda: mc.newton_cg(1e-6, iterations=0)),
        ("rate: must be positive", lambda: mc.anderson(-0.1, 1e-6)),
        ("iterations: must be a whole number", lambda: mc.closed_form(0)),
    ],
)
def test_bad_arguments(match, make):
    with pytest.raises(ValueError, match=match):
        make()
