"""The length of a nudge, from the curvature that resists it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import normal

import metacontrast as mc
from metacontrast._loss import as_loss
from metacontrast._natural_beta import natural_beta

pytestmark = pytest.mark.thorough

ROOT = normal(0, 3, 3)
HESSIAN, PHI, V = ROOT @ ROOT.T + jnp.eye(3), normal(1, 3), normal(2, 3)
EPS = float(jnp.finfo(jnp.float64).eps)


def bowl(stiff=1.0, unit=1.0):
    """A quadratic at rest at `unit * PHI`."""
    return as_loss(lambda phi: stiff * 0.5 * (phi / unit - PHI) @ HESSIAN @ (phi / unit - PHI))


def moved(beta, stiff=1.0):
    """How far it goes for that nudge, in largest components over those of PHI."""
    u = jnp.linalg.solve(stiff * HESSIAN, V / jnp.linalg.norm(V))
    return float(beta * jnp.max(jnp.abs(u)) / jnp.max(jnp.abs(PHI)))


@pytest.mark.parametrize("order", [1, 2, 4])
def test_phi_is_moved_by_a_part_of_its_size(order):
    # Three curvatures are met by three steps of conjugate gradient: the displacement is exact.
    assert moved(natural_beta(bowl(), PHI, V, order=order)) == pytest.approx(
        0.3 * EPS ** (1 / (1 + order)), rel=0.05
    )


def test_the_way_is_no_shorter_than_what_a_solver_is_off():
    assert moved(natural_beta(bowl(), PHI, V, rtol=0.5)) == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize(("word", "value"), [("rtol", 1e-6), ("tol", 1e-6)])
def test_what_the_solver_is_content_with_counts(word, value):
    # A gradient of tol is a distance of tol |u|, over the size of PHI.
    far = value if word == "rtol" else moved(value)
    assert moved(natural_beta(bowl(), PHI, V, **{word: value})) == pytest.approx(
        0.3 * far ** (1 / 3), rel=0.05
    )


def test_the_slope_that_is_left_counts():
    loss, slope = bowl(), normal(3, 3)
    tilted = as_loss(lambda phi: loss(phi) + 1e-5 * slope @ phi / jnp.linalg.norm(slope))
    assert float(natural_beta(tilted, PHI, V)) == pytest.approx(
        float(natural_beta(loss, PHI, V, tol=1e-5)), rel=1e-4
    )
    # Damping takes it out of the nudged phases, and adds to the curvature.
    damped = natural_beta(tilted, PHI, V, damping=2.0)
    stiffer = as_loss(lambda phi: loss(phi) + jnp.sum((phi - PHI) ** 2))
    assert float(damped) == pytest.approx(float(natural_beta(stiffer, PHI, V)), rel=1e-4)


def test_the_units_of_phi_and_of_the_loss_may_be_any():
    units = 10.0 ** jnp.array([0, -8, -8, -3, 4, 8, 8])
    stiffs = 10.0 ** jnp.array([0, -8, 8, 5, -2, -8, 8])
    scaled = lambda unit, stiff: natural_beta(bowl(stiff, unit), unit * PHI, 1e5 * V) * unit / stiff
    betas = jax.jit(jax.vmap(scaled))(units, stiffs)
    np.testing.assert_allclose(betas, betas[0], rtol=0.01)
    assert moved(betas[0]) == pytest.approx(0.3 * EPS ** (1 / 3), rel=0.05)


def test_a_phi_of_0_has_no_size_of_its_own():
    # At rest near 0 by cancellation: curvature 4, moved by 0.3 eps^(1/2).
    at = lambda rest: lambda phi: (phi - 1.0) ** 2 + (phi + 1.0) ** 2 - 4 * rest * phi
    beta = lambda rest: natural_beta(as_loss(at(rest)), rest, jnp.array(-2.0))
    betas = jax.jit(jax.vmap(beta))(jnp.array([0.0, 1e-17, -3e-12]))
    np.testing.assert_allclose(betas, 4 * 0.3 * EPS**0.5, rtol=0.01)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_narrow_types(dtype):
    phi, v = PHI.astype(dtype), V.astype(dtype)
    matrix = HESSIAN.astype(dtype)
    loss = as_loss(lambda p: 0.5 * ((p - phi) @ (matrix @ (p - phi))).astype(dtype))
    beta = natural_beta(loss, phi, v)
    assert beta.dtype == jnp.float32
    expected = 0.3 * float(jnp.finfo(dtype).eps) ** (1 / 3)
    assert moved(beta) == pytest.approx(expected, rel=0.1 if dtype == jnp.float32 else 0.5)


def test_nothing_to_nudge_along():
    assert 0 < float(natural_beta(bowl(), PHI, jnp.zeros(3))) < 1e3


SADDLE = as_loss(lambda p: (p[0] ** 2 - 1) ** 2 + 10 * p[1] ** 2)
INPUTS, LABELS = normal(4, 30, 4), jnp.arange(30) % 3
SOFTMAX = as_loss(
    lambda w: jnp.mean(optax.softmax_cross_entropy_with_integer_labels(INPUTS @ w, LABELS))
)
WIDE = normal(5, 3, 8)
UNDERDETERMINED = as_loss(lambda p: jnp.sum((WIDE @ p - 1.0) ** 2))
FLAT = normal(6, 8) - jnp.linalg.pinv(WIDE) @ (WIDE @ normal(6, 8))


@pytest.mark.parametrize(
    ("loss", "phi", "v"),
    {
        "the top of a double well": (SADDLE, [0.0, 0.0], [1.0, 0.0]),
        "near it": (SADDLE, [1e-3, 0.0], [0.8, -0.1]),
        "a saddle met besides v, whose own curvature is positive": (SADDLE, [0.0, 0.0], [1.0, 1.0]),
        "no slope": (as_loss(lambda p: 0.0 * jnp.sum(p)), [1.0, 2.0], [1.0, 1.0]),
        "straight": (as_loss(lambda p: 3.0 * p[0] + 0.1), [1.7, 1.0], [1.0, 0.0]),
        "a coordinate that is not used": (as_loss(lambda p: p[0] ** 2), [1.0, 2.0], [0.0, 1.0]),
        "a flat direction, to round-off": (UNDERDETERMINED, normal(7, 8), FLAT),
        "a shift of all classes": (SOFTMAX, normal(8, 4, 3), jnp.outer(normal(9, 4), jnp.ones(3))),
        "no number": (as_loss(lambda p: jnp.sum(p**2) + jnp.nan * p[0]), [1.0, 2.0], [1.0, 1.0]),
        "a slope that is infinite": (as_loss(lambda p: jnp.sqrt(p[0])), [0.0], [1.0]),
    }.values(),
)
@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
def test_no_number_where_there_is_no_minimum(loss, phi, v, dtype):
    assert np.isnan(natural_beta(loss, jnp.asarray(phi, dtype), jnp.asarray(v, dtype)))


def test_no_number_along_what_is_flat_beside_the_round_off_of_the_rest():
    loss = as_loss(lambda p: 1e-12 * p[0] ** 2 + (p[1] - 1) ** 2)
    assert np.isnan(natural_beta(loss, jnp.ones(2), jnp.array([1.0, 1e-7])))


def test_it_takes_nine_gradients_at_most():
    calls, curvatures = [], jnp.arange(1.0, 13.0)

    def loss(phi):
        jax.debug.callback(lambda: calls.append(1))
        return jnp.sum(curvatures * (phi - 1.0) ** 2)

    natural_beta(as_loss(loss), jnp.ones(12), jnp.ones(12)).block_until_ready()
    jax.effects_barrier()
    assert len(calls) <= 9


def test_flat_directions_besides_v_do_no_harm():
    phi = jnp.linalg.pinv(WIDE) @ jnp.ones(3)
    assert 1e-8 < float(natural_beta(UNDERDETERMINED, phi, normal(6, 8))) < 1e-3


def beale(y, theta, task):
    """Beale's function, whose curvatures at its minimum (3, 0.5) are 0.30 and 49."""
    a, b = y
    powers = jnp.stack([b, b**2, b**3])
    return jnp.sum((jnp.array([1.5, 2.25, 2.625]) + theta - a * (1 - powers)) ** 2)


BOTTOM, STILL = jnp.array([3.0, 0.5]), jnp.zeros(3)
JACOBIAN = -jnp.linalg.solve(
    jax.hessian(beale)(BOTTOM, STILL, None), jax.jacfwd(jax.grad(beale), 1)(BOTTOM, STILL, None)
)


ANGLES = jnp.linspace(0, jnp.pi, 9)
COTANGENTS = jnp.stack([jnp.cos(ANGLES), jnp.sin(ANGLES)], 1)


@pytest.mark.parametrize(
    ("tol", "beta", "least", "most"),
    [(1e-12, None, 0, 1e-5), (1e-6, None, 0, 1e-3), (1e-12, 0.1, 0.5, 1)],
)
def test_beale(tol, beta, least, most):
    # A fixed length does not fit both curvatures: the last case.
    find = mc.argmin(beale, mc.newton_cg(tol), beta, init=lambda theta, task: 0.97 * BOTTOM)
    pull_back = lambda v: jax.vjp(lambda theta: find(theta, None), STILL)[1](v)[0]
    error = jax.jit(jax.vmap(pull_back))(COTANGENTS) - COTANGENTS @ JACOBIAN
    worst = jnp.max(jnp.linalg.norm(error, axis=1) / jnp.linalg.norm(COTANGENTS @ JACOBIAN, axis=1))
    assert least <= worst < most
