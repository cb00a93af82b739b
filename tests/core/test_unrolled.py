from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metacontrast as mc
from metacontrast._solver._base import advance


def sampled():
    """A learner with mini-batches and momentum, so that keys, steps and state must all fit."""
    return mc.Problem(
        init=lambda theta, task: {"w": theta.omega},
        inner=lambda phi, theta, z: (
            jnp.mean((jnp.tanh(z[0] @ phi["w"]) - z[1]) ** 2) + theta.pull(phi["w"])
        ),
        outer=lambda phi, theta, z: jnp.mean((z[0] @ phi["w"] - 1.0) ** 2),
        sample=lambda z, key: jax.tree.map(lambda a: a[jax.random.randint(key, (3,), 0, 8)], z),
    )


X = jax.random.normal(jax.random.key(1), (8, 3))
TASK = (X, jnp.sin(X[:, 0]))
THETA = mc.Synapse(jnp.array([0.5, -0.3, 0.1]), jnp.array(-1.0))
OPTIMIZER = optax.sgd(0.05, momentum=0.8)


def grad(estimator, steps=11):
    solver = mc.descend(OPTIMIZER, steps)
    meta = mc.meta_gradient(sampled(), solver, estimator)(THETA, TASK, jax.random.key(7))
    return meta.value, meta.by_theta


def equal(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-11, atol=1e-14), a, b)


@pytest.mark.parametrize("steps", [1, 11])
def test_rematerialised_is_the_same(steps):
    equal(grad(mc.Unrolled(remat=True), steps), grad(mc.Unrolled(), steps))


@pytest.mark.thorough
def test_truncation_at_or_beyond_all_steps_is_none():
    equal(grad(mc.Unrolled(truncate=11)), grad(mc.Unrolled()))
    equal(grad(mc.Unrolled(truncate=50, remat=True)), grad(mc.Unrolled()))


def test_truncation_is_backpropagation_through_the_last_steps():
    problem, key, steps, last = sampled(), jax.random.key(7), 11, 4

    def by_hand(theta):
        fixed = jax.lax.stop_gradient(theta)
        phi = problem.init(fixed, TASK)
        state = OPTIMIZER.init(phi)
        for t in range(steps):
            if t == steps - last:
                phi, state = jax.lax.stop_gradient((phi, state))
            loss = mc.Loss(problem, theta if t >= steps - last else fixed, TASK, key)
            updates, state = OPTIMIZER.update(jax.grad(loss.view(t))(phi), state, phi)
            phi = optax.apply_updates(phi, updates)
        return loss.outer(phi)

    expected = jax.value_and_grad(by_hand)(THETA)
    for remat in (False, True):
        equal(grad(mc.Unrolled(last, remat)), expected)


@pytest.mark.parametrize("cut", [1, 5])
def test_parts_are_the_whole(cut):
    loss = mc.Loss(sampled(), THETA, TASK, jax.random.key(7))
    solver, phi = mc.descend(OPTIMIZER, 11), sampled().init(THETA, TASK)
    state, taken = advance(solver, loss, solver.init(loss, phi), 0, cut)
    state, rest = advance(solver, loss, state, taken, 11 - cut)
    equal(state.phi, solver(loss, phi).phi)
    assert taken + rest == 11


def memory(estimator, steps):
    problem = mc.Problem(
        init=lambda theta, task: theta,
        inner=lambda phi, theta, task: jnp.sum(jnp.sin(phi - theta) ** 2),
        outer=lambda phi, theta, task: jnp.sum(phi**2),
    )
    loss = mc.meta_loss(problem, mc.descend(optax.sgd(0.1), steps), estimator)
    compiled = jax.jit(jax.grad(loss)).lower(jnp.ones(1000), None).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_memory_grows_as_the_root_of_the_steps_or_not_at_all():
    growth = lambda estimator: memory(estimator, 1600) / memory(estimator, 100)
    assert growth(mc.Unrolled()) > 12
    assert growth(mc.Unrolled(remat=True)) < 5
    assert memory(mc.Contrastive(0.1), 1600) <= memory(mc.Contrastive(0.1), 100)


@pytest.mark.parametrize("estimator", [mc.Unrolled(), mc.Unrolled(truncate=3)])
def test_solvers_that_stop_at_a_tolerance_are_refused(estimator):
    solver = mc.until_converged(OPTIMIZER, 1e-3)
    with pytest.raises(TypeError, match=r"solver: Unrolled .* Descend\(.* tolerance"):
        mc.meta_gradient(sampled(), solver, estimator)(THETA, TASK, jax.random.key(0))


def test_a_solver_of_your_own_can_be_run_in_parts():
    @dataclass(frozen=True)
    class Slow(mc.Solver):
        rate: float

        def step(self, loss, state, t):
            move = lambda p, g: p - self.rate * g
            return mc.State(jax.tree.map(move, state.phi, jax.grad(loss)(state.phi)))

    def rule(estimator):
        gradient = mc.meta_gradient(sampled(), Slow(0.1, steps=10), estimator)
        return gradient(THETA, TASK, jax.random.key(7)).by_theta

    equal(rule(mc.Unrolled(remat=True)), rule(mc.Unrolled()))
    equal(rule(mc.Unrolled(truncate=10)), rule(mc.Unrolled()))


def test_bad_truncation():
    with pytest.raises(ValueError, match="truncate: must be a whole number of at least 1"):
        mc.Unrolled(truncate=0)
