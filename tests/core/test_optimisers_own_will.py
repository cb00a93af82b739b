"""Learners whose optimiser does something else than the inner loss says: frozen, decayed, ended."""

import warnings

import jax
import jax.numpy as jnp
import optax
import pytest

import metacontrast as mc

# A learner of which a part is frozen, or decayed, by the optimiser alone


def example():
    x = jax.random.normal(jax.random.key(0), (20, 2))
    y = x @ jnp.array([1.0, -2.0]) + 0.7
    task = mc.Task(mc.Data(x[:10], y[:10]), mc.Data(x[10:], y[10:]))
    error = lambda phi, data: jnp.mean((data.x @ phi["a"] + phi["b"] - data.y) ** 2)
    problem = mc.Problem(
        init=lambda theta, task: {"a": jnp.zeros(2), "b": jnp.zeros(())},
        inner=lambda phi, theta, task: (
            error(phi, task.train) + jnp.exp(theta) * jnp.sum(phi["a"] ** 2)
        ),
        outer=lambda phi, theta, task: error(phi, task.test),
    )
    return problem, jnp.array(-1.0), task


OPTIMIZERS = {
    "multi_transform": optax.multi_transform(
        {"learned": optax.sgd(0.1), "frozen": optax.set_to_zero()}, {"a": "learned", "b": "frozen"}
    ),
    "masked": optax.chain(
        optax.masked(optax.set_to_zero(), {"a": False, "b": True}), optax.sgd(0.1)
    ),
    "decayed weights": optax.chain(optax.add_decayed_weights(0.3), optax.sgd(0.1)),
}
RULES = {
    "contrastive": mc.Contrastive(0.01, "symmetric"),
    "linear": mc.Contrastive(0.1, "symmetric", nudge="linear"),
    "unrolled": mc.Unrolled(),
    "cg": mc.Implicit("cg"),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_right_or_flagged(optimizer, rule):
    problem, theta, task = example()
    solver = mc.descend(OPTIMIZERS[optimizer], 300)
    value = jax.jit(mc.meta_loss(problem, solver, mc.Unrolled()))
    step = 1e-4
    truth = float(value(theta + step, task) - value(theta - step, task)) / (2 * step)
    meta = jax.jit(mc.meta_gradient(problem, solver, RULES[rule], by_z=False))(theta, task)
    # Phases that come to rest are right to their beta and what 300 steps leave.
    is_right = abs(float(meta.by_theta) - truth) < 0.01 * abs(truth)
    assert is_right or meta.aux["flags"].raised()
    assert is_right or rule == "cg"  # which takes phi for a minimum of the loss


# A schedule that has run out, in phases that go on


def test_phases_that_stand_still_are_flagged():
    problem = mc.Problem(
        init=lambda theta, task: jnp.zeros(()),
        inner=lambda phi, theta, task: (phi - task) ** 2 + (phi - theta) ** 2,
        outer=lambda phi, theta, task: (phi - 1.0) ** 2,
    )
    falling = optax.sgd(optax.cosine_decay_schedule(0.2, 100))
    solver, rule = mc.descend(falling, 10), mc.Contrastive(0.1)
    step = jax.jit(mc.meta_gradient(problem, solver, rule))
    theta, task, phases = jnp.array(5.0), jnp.array(3.0), None
    for _ in range(20):
        meta = step(theta, task, None, phases)
        theta, phases = theta - 0.1 * meta.by_theta, meta.phases
    # Far from -1, where phi is 1: the phases have stopped, and theta runs away from them.
    assert meta.aux["flags"].raised()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fresh = mc.meta_gradient(problem, solver, rule)(theta, task)
    assert fresh.phases.free.phi != meta.phases.free.phi
