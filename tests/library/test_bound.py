"""The paper's bound: never exceeded, attained in one dimension, and its constants by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import EPS, quadratic, random_quadratic

import metacontrast as mc
from metacontrast.accuracy import Constants, best_beta, bound, quadratic_constants

PHI, THETA = 5, 3


def spd(key, size, low):
    """A random symmetric matrix with eigenvalues from `low` to about 10."""
    q, _ = jnp.linalg.qr(jax.random.normal(key, (size, size)))
    spread = low * 10 ** jax.random.uniform(jax.random.fold_in(key, 1), (size,), maxval=1.5)
    return (q * spread[None]) @ q.T


def linear_pull(phi, theta, curvature, cross, shift):
    return 0.5 * phi @ curvature @ phi - phi @ (cross @ theta + shift)


bilinear = mc.Problem(
    init=lambda theta, task: jnp.zeros(PHI),
    inner=lambda phi, theta, task: linear_pull(phi, theta, *task["in"]) + jnp.sum(theta**2),
    outer=lambda phi, theta, task: linear_pull(phi, theta, *task["out"]) + jnp.sum(theta**3),
)


def random_bilinear(key):
    """`(theta, task)`; the task also says where and how far each phase misses its minimum."""
    keys = jax.random.split(key, 12)
    normal = jax.random.normal
    task = {
        "in": (spd(keys[0], PHI, 0.3), normal(keys[1], (PHI, THETA)), normal(keys[2], (PHI,))),
        "out": (spd(keys[3], PHI, 0.1), normal(keys[4], (PHI, THETA)), normal(keys[5], (PHI,))),
        "free": normal(keys[6], (PHI,)) * 10 ** jax.random.uniform(keys[7], (), minval=-6),
        "nudged": normal(keys[8], (PHI,)) * 10 ** jax.random.uniform(keys[9], (), minval=-6),
    }
    beta = 10 ** jax.random.uniform(keys[10], (), minval=-4, maxval=2)
    return normal(keys[11], (THETA,)), task, beta


@mc.as_solver
def missing(loss, phi):
    """The minimiser, missed by as much as the task says."""
    miss = loss.z["free" if loss.nudge is None else "nudged"]
    return mc.closed_form()(loss, phi).phi + miss


def error_and_constants(theta, task, beta):
    gradient = lambda solver, rule: mc.meta_gradient(bilinear, solver, rule)(theta, task).by_theta
    error = gradient(missing, mc.Contrastive(beta))
    error -= gradient(mc.closed_form(), mc.Implicit("exact"))
    return jnp.linalg.norm(error), quadratic_constants(bilinear, theta, task)


@pytest.fixture(scope="module")
def thousand():
    """Random problems, with the error and the constants of each."""
    keys = jax.random.split(jax.random.key(0), 1000)
    problems = jax.jit(jax.vmap(random_bilinear))(keys)
    return problems, jax.device_get(jax.jit(jax.vmap(error_and_constants))(*problems))


def test_the_error_never_exceeds_the_bound_on_1000_random_problems(thousand):
    (_, task, beta), (errors, constants) = thousand
    deltas = np.linalg.norm(task["free"], axis=1), np.linalg.norm(task["nudged"], axis=1)
    bounds = bound(*deltas, np.asarray(beta), constants)
    assert np.all(np.isfinite(bounds))
    assert np.all(errors <= bounds * (1 + 1e-9))
    # and says something: it is not always far away
    assert np.max(errors / bounds) > 0.5


def test_in_one_dimension_with_equal_curvatures_the_bound_is_attained():
    problem = mc.Problem(
        init=lambda theta, task: 0.0 * theta,
        inner=lambda phi, theta, task: 0.5 * 3.0 * (phi - theta) ** 2,
        outer=lambda phi, theta, task: 0.5 * 3.0 * (phi - task) ** 2,
    )
    theta, task = jnp.array(1.0), jnp.array(-2.0)
    constants = quadratic_constants(problem, theta, task)
    exact = 3.0 * (theta - task)

    @jax.jit
    @jax.vmap
    def estimate(beta):
        rule = mc.Contrastive(beta)
        return mc.meta_gradient(problem, mc.closed_form(), rule)(theta, task).by_theta

    betas = np.array([1e-2, 1.0, 100.0])
    limits = bound(0.0, 0.0, betas, constants)
    np.testing.assert_allclose(np.abs(estimate(betas) - exact), limits, rtol=1e-9)


def test_constants_by_hand(thousand):
    problems, (_, constants) = thousand
    for i in range(10):
        theta, task, _ = jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), problems)
        (h, p, shift), (a, q, push) = task["in"], task["out"]
        phi = np.linalg.solve(h, p @ theta + shift)
        g = a @ phi - q @ theta - push
        norm = lambda matrix: np.linalg.svd(matrix)[1][0]
        c = norm(p) * norm(a) * np.linalg.norm(np.linalg.solve(h, g)) + norm(q) * np.linalg.norm(g)
        c /= min(np.linalg.eigvalsh(h)[0], np.linalg.eigvalsh(a)[0])
        ours = [x[i] for x in constants]
        assert ours == pytest.approx([norm(p), norm(q), c], rel=1e4 * EPS)


@pytest.mark.parametrize("delta", [1e-2, 1e-4])
def test_best_beta_is_the_minimum_of_the_bound(delta):
    constants = Constants(2.0, 0.5, 3.0)
    betas = np.logspace(-4, 1, 20_001)
    values = bound(delta, 0.1 * delta, betas, constants)
    best = float(best_beta(delta, 0.1 * delta, constants))
    assert best == pytest.approx(betas[np.argmin(values)], rel=1e-3)
    a = 2.0 * 1.1 * delta
    least = 2 * np.sqrt(a * 3.0) - a + 0.5 * 0.1 * delta
    assert bound(delta, 0.1 * delta, best, constants) == pytest.approx(least)


def test_a_solver_worse_than_the_nudge_wants_an_infinite_one():
    assert best_beta(2.0, 0.0, Constants(1.0, 0.0, 1.0)) == jnp.inf


def test_what_the_theorem_does_not_cover_is_refused():
    theta, task = random_quadratic(0)
    with pytest.raises(ValueError, match=r"problem\.inner: its second derivatives change with phi"):
        quadratic_constants(quadratic, theta, task)  # log_lam times phi squared
    with pytest.raises(ValueError, match="beta: must be positive and finite, not -1"):
        bound(0.0, 0.0, -1, Constants(1.0, 1.0, 1.0))
    saddle = mc.Problem(
        init=lambda theta, task: theta,
        inner=lambda phi, theta, task: (phi - theta) ** 2,
        outer=lambda phi, theta, task: -(phi**2),
    )
    with pytest.raises(ValueError, match="both losses strongly convex"):
        quadratic_constants(saddle, jnp.array(1.0), jnp.array(0.0))
