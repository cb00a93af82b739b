import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import normal

import metacontrast as mc
from metacontrast._solver._base import Start, run_solver

# Phases of a few steps have not converged.
pytestmark = pytest.mark.filterwarnings("ignore:the meta-gradient may be wrong")
ROOT, TARGET = normal(0, 4, 4), normal(1, 4)
MATRIX = ROOT @ ROOT.T / 4 + jnp.eye(4)


def inner(phi, theta, task):
    return 0.5 * phi @ MATRIX @ phi - (theta + task) @ phi


def outer(phi, theta, task):
    return jnp.sum((phi - TARGET) ** 2) + 0.05 * jnp.sum(theta**2)


PROBLEM = mc.Problem(lambda theta, task: jnp.zeros(4), inner, outer)
TASK = normal(2, 4)


def bilevel_solution():
    """phi = M^-1 (theta + task), so that theta solves a linear system."""
    inverse = jnp.linalg.inv(MATRIX)
    hessian = 2 * inverse @ inverse + 0.1 * jnp.eye(4)
    return jnp.linalg.solve(hessian, 2 * inverse @ (TARGET - inverse @ TASK))


def single_loop(solver, estimator, meta, steps, restart=False):
    """Everything in one scan, which also shows that the phases keep their structure."""

    def gradient(t, theta, phases):
        rule = estimator(t) if callable(estimator) else estimator
        meta = mc.meta_gradient(PROBLEM, solver, rule)(theta, TASK, None, phases)
        return meta._replace(phases=mc.Phases(meta.phases.free) if restart else meta.phases)

    def step(carry, t):
        theta, state, phases = carry
        found = gradient(t, theta, phases)
        updates, state = meta.update(found.by_theta, state, theta)
        return (optax.apply_updates(theta, updates), state, found.phases), found.value

    def run(theta):
        start = (theta, meta.init(theta), gradient(0, theta, None).phases)
        (theta, _, phases), values = jax.lax.scan(step, start, jnp.arange(steps))
        return theta, phases, values

    return jax.jit(run)(jnp.zeros(4))


SGD = optax.sgd(0.2)


def decreasing(t):
    return mc.Contrastive(beta=0.5 / (1 + t))


@pytest.mark.parametrize(
    ("name", "solve", "estimator", "meta", "steps", "tol"),
    [
        ("symmetric", SGD, mc.Contrastive(0.02, "symmetric"), optax.sgd(0.1), 1500, 1e-3),
        ("F2SA", SGD, decreasing, optax.sgd(0.05), 4000, 1e-3),
        ("momentum", optax.sgd(0.1, 0.6), decreasing, optax.sgd(0.02, 0.7), 4000, 1e-3),
        ("complex", SGD, mc.Contrastive(0.1, "holomorphic", 6), optax.sgd(0.1), 1500, 1e-4),
        ("implicit", SGD, mc.Implicit("cg"), optax.sgd(0.1), 1500, 1e-8),
    ],
)
def test_one_step_a_phase_finds_the_bilevel_solution(name, solve, estimator, meta, steps, tol):
    theta, _, values = single_loop(mc.descend(solve, 1), estimator, meta, steps)
    np.testing.assert_allclose(theta, bilevel_solution(), atol=tol)
    assert values[-1] < values[0]


LINEAR = mc.Contrastive(1.0, "symmetric", nudge="linear", nudged=mc.descend(SGD, 100))


@pytest.mark.parametrize(
    "estimator", [mc.Contrastive(1e-3, "symmetric", nudged=LINEAR.nudged), LINEAR]
)
def test_restarted_nudged_phases_start_where_the_free_one_is(estimator):
    meta = optax.sgd(0.1)
    theta, phases, _ = single_loop(mc.descend(SGD, 1), estimator, meta, 1500, restart=True)
    assert phases.nudged is None  # nothing else is carried
    # 0.8^100 of the way is left: 2e-10, over beta 2e-7.
    np.testing.assert_allclose(theta, bilevel_solution(), atol=1e-5)


def test_f2sa_by_hand():
    """Kwon et al., 2023, algorithm 1, with lambda = 1 / beta, from the same starting points."""
    rate, beta, meta_rate = 0.2, 0.1, 0.05
    step = mc.meta_gradient(PROBLEM, mc.descend(optax.sgd(rate), 1), mc.Contrastive(beta))
    theta = mine = jnp.zeros(4)
    phases = step(theta, TASK).phases
    z, (y,) = phases.free.phi, [start.phi for start in phases.nudged]
    for _ in range(5):
        meta = step(mine, TASK, None, phases)
        phases, mine = meta.phases, mine - meta_rate * meta.by_theta
        z = z - rate * jax.grad(inner)(z, theta, TASK)
        y = y - rate * (jax.grad(inner)(y, theta, TASK) + beta * jax.grad(outer)(y, theta, TASK))
        by_theta = lambda f, phi, at: jax.grad(f, 1)(phi, at, TASK)
        gap = by_theta(inner, y, theta) - by_theta(inner, z, theta)
        theta = theta - meta_rate * (by_theta(outer, y, theta) + gap / beta)
        np.testing.assert_allclose(mine, theta, rtol=1e-12)


def test_the_optimisers_memory_is_carried():
    momentum = mc.descend(optax.sgd(0.1, 0.9), 3)
    step = mc.meta_gradient(PROBLEM, momentum, mc.Contrastive(0.1))
    free = step(jnp.zeros(4), TASK).phases.free
    after = step(jnp.ones(4), TASK, None, mc.Phases(free)).phases.free
    expected = run_solver(momentum, mc.Loss(PROBLEM, jnp.ones(4), TASK), free)
    np.testing.assert_allclose(after.phi, expected.phi, rtol=1e-12)
    forgetful = run_solver(momentum, mc.Loss(PROBLEM, jnp.ones(4), TASK), Start(free.phi))
    assert jnp.linalg.norm(after.phi - forgetful.phi) > 1e-3


def test_a_solver_that_converges_needs_no_warmth():
    step = mc.meta_gradient(PROBLEM, mc.closed_form(), mc.Contrastive(0.1, "symmetric"))
    warm = step(jnp.ones(4), TASK, None, step(jnp.zeros(4), TASK).phases)
    np.testing.assert_allclose(warm.by_theta, step(jnp.ones(4), TASK).by_theta, rtol=1e-9)


def test_each_phase_may_have_its_own_solver_and_a_control():
    rule = mc.Contrastive(0.1, nudged=mc.descend(optax.adam(0.1), 2), control=True)
    step = mc.meta_gradient(PROBLEM, mc.descend(optax.sgd(0.1), 1), rule)
    before = step(jnp.zeros(4), TASK).phases
    assert len(before.nudged) == 2  # the control, and the nudged one
    after = step(jnp.ones(4), TASK, None, before)
    assert jax.tree.structure(after.phases) == jax.tree.structure(before)
    assert jnp.all(jnp.isfinite(after.by_theta))


def test_stochastic_learners_take_a_key():
    problem = mc.Problem(
        PROBLEM.init, inner, outer, sample=lambda z, key: z + jax.random.normal(key, z.shape)
    )
    step = mc.meta_gradient(problem, mc.descend(SGD, 2), mc.Contrastive(0.1))
    keys = jax.random.split(jax.random.key(0), 3)
    phases = step(jnp.zeros(4), TASK, keys[0]).phases
    first, again, other = (
        step(jnp.zeros(4), TASK, key, phases).by_theta for key in (keys[1], keys[1], keys[2])
    )
    assert jnp.all(first == again) and not jnp.allclose(first, other)


@pytest.mark.parametrize("rule", [mc.Reptile(), mc.Unrolled(), mc.FirstOrder()])
def test_other_estimators_are_refused(rule):
    step = mc.meta_gradient(PROBLEM, mc.descend(SGD, 1), rule)
    with pytest.raises(TypeError, match=r"starts: .*looks at where learning started"):
        step(jnp.zeros(4), TASK, None, mc.Phases(Start(jnp.zeros(4))))
