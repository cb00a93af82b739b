import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from matrix_problems import normal

import metacontrast as mc

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


def single_loop(solve, estimator, meta, steps, **words):
    """Everything in one scan, which also shows that the state keeps its structure."""
    loop = mc.warm(PROBLEM, solve, estimator, **words)

    def step(carry, _):
        theta, meta_state, state = carry
        (value, _), grad, state = loop.value_and_grad(state, theta, TASK)
        updates, meta_state = meta.update(grad, meta_state, theta)
        return (optax.apply_updates(theta, updates), meta_state, state), value

    def run(theta):
        start = (theta, meta.init(theta), loop.init(theta, TASK))
        (theta, _, state), values = jax.lax.scan(step, start, length=steps)
        return theta, state, values

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


LINEAR = mc.LinearNudge(1.0, nudged=mc.descend(SGD, 100))


@pytest.mark.parametrize(
    "estimator", [mc.Contrastive(1e-3, "symmetric", nudged=LINEAR.nudged), LINEAR]
)
def test_fresh_nudged_phases_start_where_the_free_one_has_got_to(estimator):
    theta, state, _ = single_loop(mc.descend(SGD, 1), estimator, optax.sgd(0.1), 1500, fresh=True)
    assert len(state.phases) == 1  # nothing else is carried
    # 0.8^100 of the way is left: 2e-10, over beta 2e-7.
    np.testing.assert_allclose(theta, bilevel_solution(), atol=1e-5)


def test_f2sa_by_hand():
    """Kwon et al., 2023, algorithm 1, with lambda = 1 / beta, from the same starting points."""
    rate, beta, meta_rate = 0.2, 0.1, 0.05
    loop = mc.warm(PROBLEM, mc.descend(optax.sgd(rate), 1), mc.Contrastive(beta))
    theta = jnp.zeros(4)
    state = loop.init(theta, TASK)
    (z, _), (y, _) = state.phases
    mine = theta
    for t in range(5):
        assert state.step == t
        _, grad, state = loop.value_and_grad(state, mine, TASK)
        mine = mine - meta_rate * grad
        z = z - rate * jax.grad(inner)(z, theta, TASK)
        y = y - rate * (jax.grad(inner)(y, theta, TASK) + beta * jax.grad(outer)(y, theta, TASK))
        by_theta = lambda f, phi, at: jax.grad(f, 1)(phi, at, TASK)
        gap = by_theta(inner, y, theta) - by_theta(inner, z, theta)
        theta = theta - meta_rate * (by_theta(outer, y, theta) + gap / beta)
        np.testing.assert_allclose(mine, theta, rtol=1e-12)


def test_the_optimisers_state_is_carried():
    momentum = mc.descend(optax.sgd(0.1, 0.9), 3)
    loop = mc.warm(PROBLEM, momentum, mc.Contrastive(0.1))
    state = loop.init(jnp.zeros(4), TASK)
    (phi, moments), _ = state.phases
    _, _, after = loop.value_and_grad(state, jnp.ones(4), TASK)
    expected = momentum(PROBLEM.loss(jnp.ones(4), TASK), phi, moments)
    np.testing.assert_allclose(after.phases[0][0], expected.phi, rtol=1e-12)


def test_a_solver_that_converges_needs_no_warmth():
    solve, theta = mc.closed_form(), jnp.ones(4)
    rule = mc.Contrastive(0.1, "symmetric")
    loop = mc.warm(PROBLEM, solve, rule)
    _, grad, _ = loop.value_and_grad(loop.init(jnp.zeros(4), TASK), theta, TASK)
    _, cold = rule.value_and_grad(PROBLEM, solve, theta, TASK)
    np.testing.assert_allclose(grad, cold, rtol=1e-9)


def test_each_phase_may_have_its_own_solver_and_a_control():
    rule = mc.Contrastive(0.1, nudged=mc.descend(optax.adam(0.1), 2), control=True)
    loop = mc.warm(PROBLEM, mc.descend(optax.sgd(0.1), 1), rule)
    state = loop.init(jnp.zeros(4), TASK)
    assert len(state.phases) == 3  # free, control, nudged
    _, grad, after = loop.value_and_grad(state, jnp.ones(4), TASK)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert jnp.all(jnp.isfinite(grad))


def test_stochastic_learners_take_a_key():
    problem = mc.Problem(
        PROBLEM.init, inner, outer, sample=lambda z, key: z + jax.random.normal(key, z.shape)
    )
    loop = mc.warm(problem, mc.descend(SGD, 2), mc.Contrastive(0.1))
    keys = jax.random.split(jax.random.key(0), 3)
    state = loop.init(jnp.zeros(4), TASK, keys[0])
    first = loop.value_and_grad(state, jnp.zeros(4), TASK, keys[1])[1]
    again = loop.value_and_grad(state, jnp.zeros(4), TASK, keys[1])[1]
    other = loop.value_and_grad(state, jnp.zeros(4), TASK, keys[2])[1]
    assert jnp.all(first == again) and not jnp.allclose(first, other)


def test_other_estimators_are_refused():
    with pytest.raises(TypeError, match="estimator: must be Contrastive, LinearNudge or Implicit"):
        mc.warm(PROBLEM, mc.descend(SGD, 1), mc.Reptile()).init(jnp.zeros(4), TASK)
    with pytest.raises(ValueError, match="beta: 'auto' tries other phases"):
        mc.warm(PROBLEM, mc.descend(SGD, 1), mc.Contrastive("auto")).init(jnp.zeros(4), TASK)
