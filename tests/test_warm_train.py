"""Meta-training of one long task, whose phases go on from one meta-step to the next."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metacontrast as mc
from metacontrast.train import DivergedError, warm_train


def drawn(key):
    return jnp.array(2.0) + 0.1 * jax.random.normal(key)


RIDGE = mc.Problem(
    init=lambda theta, task: jnp.zeros(()),
    inner=lambda phi, theta, task: (phi - task) ** 2 + theta**2 * phi**2,
    outer=lambda phi, theta, task: (phi - 1.0) ** 2,
)


def ridge(problem=RIDGE, **changes):
    arguments = dict(steps=12, seed=5, every=4, chunk=2, progress=False)
    rule, solve = mc.Contrastive(0.1), mc.descend(optax.sgd(0.1, 0.5), 2)
    return warm_train(
        problem, solve, rule, drawn, jnp.array(0.5), optax.adam(0.1), **(arguments | changes)
    )


def test_warm_training_is_the_loop_by_hand():
    loop = mc.warm(RIDGE, mc.descend(optax.sgd(0.1, 0.5), 2), mc.Contrastive(0.1))
    keys = lambda t: jax.random.split(jax.random.fold_in(jax.random.key(5), t))
    theta, meta = jnp.array(0.5), optax.adam(0.1)
    state, moments = loop.init(theta, drawn(keys(0)[0])), meta.init(theta)
    for t in range(12):
        _, grad, state = loop.value_and_grad(state, theta, drawn(keys(t)[0]))
        updates, moments = meta.update(grad, moments, theta)
        theta = theta + updates
    trained = ridge()
    np.testing.assert_allclose(trained.theta, theta, rtol=1e-12)
    np.testing.assert_allclose(trained.phi, state.phases[0][0], rtol=1e-12)
    assert [line["step"] for line in trained.metrics] == [4, 8, 12]


def test_a_warm_run_that_stopped_and_resumed_is_the_run_that_did_not(tmp_path):
    seen = lambda theta, phi: {"theta": theta, "phi": phi}
    whole = ridge(watch=seen)
    ridge(watch=seen, steps=8, out=tmp_path / "run")
    resumed = ridge(watch=seen, out=tmp_path / "run", resume=True)
    assert resumed.theta == whole.theta and resumed.phi == whole.phi
    assert resumed.metrics[-1]["valid_phi"] == float(whole.phi)
    with pytest.raises(ValueError, match=r"^out: .*seed is 5 there and 6 now"):
        ridge(out=tmp_path / "run", resume=True, seed=6)


def test_a_warm_run_that_diverges_says_so():
    steep = replace(RIDGE, inner=lambda phi, theta, task: 1e6 * (phi - task - theta) ** 2)
    with pytest.raises(DivergedError, match=r"^meta-step \d+: the meta-loss or theta is not"):
        ridge(steep, steps=200)
