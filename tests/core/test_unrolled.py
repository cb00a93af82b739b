import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metacontrast as mc


def sampled():
    """A learner with mini-batches and momentum, so that keys, steps and state must all fit."""
    return mc.Problem(
        init=lambda theta, task: {"w": theta["omega"]},
        inner=lambda phi, theta, z: (
            jnp.mean((jnp.tanh(z[0] @ phi["w"]) - z[1]) ** 2)
            + mc.attraction(phi["w"], theta["omega"], theta["log_lam"])
        ),
        outer=lambda phi, theta, z: jnp.mean((z[0] @ phi["w"] - 1.0) ** 2),
        sample=lambda z, key: jax.tree.map(lambda a: a[jax.random.randint(key, (3,), 0, 8)], z),
    )


X = jax.random.normal(jax.random.key(1), (8, 3))
TASK = (X, jnp.sin(X[:, 0]))
THETA = {"omega": jnp.array([0.5, -0.3, 0.1]), "log_lam": jnp.array(-1.0)}
OPTIMIZER = optax.sgd(0.05, momentum=0.8)


def grad(estimator, steps=11):
    rule = lambda theta: estimator.value_and_grad(
        sampled(), mc.descend(OPTIMIZER, steps), theta, TASK, jax.random.key(7)
    )
    (value, _), found = jax.jit(rule)(THETA)
    return value, found


def equal(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-11, atol=1e-14), a, b)


@pytest.mark.parametrize("steps", [1, 11])
def test_rematerialised_is_the_same(steps):
    equal(grad(mc.Unrolled(remat=True), steps), grad(mc.Unrolled(), steps))


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
            loss = problem.loss(theta if t >= steps - last else fixed, TASK, key=key)
            updates, state = OPTIMIZER.update(jax.grad(loss.at)(phi, t), state, phi)
            phi = optax.apply_updates(phi, updates)
        return loss.outer(phi)

    expected = jax.value_and_grad(by_hand)(THETA)
    for remat in (False, True):
        equal(grad(mc.Unrolled(last, remat)), expected)


def test_parts_are_the_whole():
    loss = sampled().loss(THETA, TASK, key=jax.random.key(7))
    whole = mc.descend(OPTIMIZER, 11)
    first = whole.part(0, 5)(loss, sampled().init(THETA, TASK))
    second = whole.part(5, 6)(loss, first.phi, first.state)
    equal(second.phi, whole(loss, sampled().init(THETA, TASK)).phi)
    equal(whole.part(5, 6).part(2, 4).first, 7)


def memory(estimator, steps):
    problem = mc.Problem(
        init=lambda theta, task: theta,
        inner=lambda phi, theta, task: jnp.sum(jnp.sin(phi) ** 2),
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


@pytest.mark.parametrize("estimator", [mc.Unrolled(truncate=3), mc.Unrolled(remat=True)])
def test_solvers_without_parts_are_refused(estimator):
    with pytest.raises(TypeError, match=r"solve: truncate and remat need .* `part"):
        estimator.value_and_grad(
            sampled(), mc.until_converged(OPTIMIZER, 1e-3), THETA, TASK, jax.random.key(0)
        )


def test_a_solver_of_your_own_can_have_parts():
    class Descent:
        def __init__(self, steps):
            self.steps = steps

        def part(self, first, steps):
            return Descent(steps)

        def __call__(self, loss, phi0, state=None):
            def step(phi, _):
                return jax.tree.map(lambda p, g: p - 0.1 * g, phi, jax.grad(loss)(phi)), None

            return jax.lax.scan(step, phi0, length=self.steps)[0]

    rule = lambda estimator: estimator.value_and_grad(sampled(), Descent(10), THETA, TASK)[1]
    equal(rule(mc.Unrolled(remat=True)), rule(mc.Unrolled()))


def test_bad_truncation():
    with pytest.raises(ValueError, match="truncate: must be a whole number of at least 1"):
        mc.Unrolled(truncate=0)
