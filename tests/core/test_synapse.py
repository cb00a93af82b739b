"""The complex synapse: its loss, its special cases and its local meta-gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import (
    EPS,
    forward_pass,
    meta_grad,
    nudged_loss,
    random_network,
    relative_error,
)

import metacontrast as mc

LAYERED = {"in": jnp.log(0.3), "out": {"w": jnp.log(2.0), "b": jnp.log(jnp.array([0.7]))}}


def strengths(kind, omega):
    """log lambda: one for all, one a layer (and finer in the last), one a weight."""
    rng = np.random.default_rng(1)
    draw = lambda leaf: jnp.asarray(rng.normal(size=leaf.shape))
    return {"scalar": 0.3, "layer": LAYERED, "weight": jax.tree.map(draw, omega)}[kind]


def spread(log_lam, phi):
    """The same strengths, one a weight, written out."""
    full = lambda s, part: jax.tree.map(lambda p: jnp.full(p.shape, s), part)
    if not isinstance(log_lam, dict):
        return full(log_lam, phi)
    if not isinstance(log_lam["in"], dict):
        out = {"w": full(log_lam["out"]["w"], phi["out"]["w"]), "b": log_lam["out"]["b"]}
        return {"in": full(log_lam["in"], phi["in"]), "out": out}
    return log_lam


KINDS = ["scalar", "layer", "weight"]


def moved(omega, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: leaf + rng.normal(size=leaf.shape), omega)


@pytest.mark.parametrize("kind", KINDS)
def test_the_pull_is_the_weighted_square_of_the_distance(kind):
    omega = random_network(0)[0].omega
    phi, log_lam = moved(omega), strengths(kind, omega)
    terms = jax.tree.map(
        lambda s, p, o: jnp.sum(jnp.exp(s) * (p - o) ** 2), spread(log_lam, phi), phi, omega
    )
    expected = float(sum(jax.tree.leaves(terms)))
    assert float(mc.Synapse(omega, log_lam).pull(phi)) == pytest.approx(expected, rel=100 * EPS)


def test_without_omega_it_is_an_l2_penalty():
    phi = moved(random_network(0)[0].omega)
    expected = 2.0 * float(optax.tree.norm(phi, squared=True))
    assert float(mc.Synapse(log_lam=jnp.log(2.0)).pull(phi)) == pytest.approx(
        expected, rel=100 * EPS
    )


def test_without_strengths_it_is_the_squared_distance():
    omega = random_network(0)[0].omega
    phi = moved(omega)
    expected = float(optax.tree.norm(optax.tree.sub(phi, omega), squared=True))
    assert float(mc.Synapse(omega).pull(phi)) == pytest.approx(expected, rel=100 * EPS)


def test_phi_may_be_a_plain_number():
    assert mc.Synapse(1.0, 0.0).pull(3.0) == 4.0


# The local rule against the general one, for a network and phases of a few Adam steps: the two
# agree for any pair of phases, solved or not.

BETA = 0.5
NUDGED = mc.descend(optax.adam(0.05), 5)
FREE = mc.descend(optax.adam(0.05), 8)


def squares(phi, data):
    return jnp.mean((jax.vmap(forward_pass, (None, 0))(phi, data.x) - data.y) ** 2)


def contrast_of(problem, theta, task):
    """`phi_0`, `phi_beta` and the general rule's gradient."""

    @jax.jit
    def run():
        loss = mc.Loss(problem, theta, task)
        free = FREE(loss, problem.init(theta, task)).phi
        return free, NUDGED(nudged_loss(problem, theta, task, BETA), free).phi

    return *run(), meta_grad(problem, FREE, mc.Contrastive(BETA, nudged=NUDGED), theta, task)


# lambda ((phi - omega)^2 - ...) / beta, of terms of order ten at most, summed over 13 weights; the
# phases themselves may differ by the compiler's rounding over 13 steps.
ROUND_OFF = 1e3 * EPS / BETA


@pytest.mark.parametrize("kind", KINDS)
def test_the_local_rule_is_the_general_rule(kind):
    theta, task = random_network(0)
    theta = theta._replace(log_lam=strengths(kind, theta.omega))
    problem = mc.Problem(
        init=lambda theta, task: theta.omega,
        inner=lambda phi, theta, task: squares(phi, task.train) + theta.pull(phi),
        outer=lambda phi, theta, task: squares(phi, task.test),
    )
    free, nudged, expected = contrast_of(problem, theta, task)
    omega_grad, log_lam_grad = theta.contrast(free, nudged, BETA)
    assert relative_error(omega_grad, expected.omega) < ROUND_OFF
    assert relative_error(log_lam_grad, expected.log_lam) < ROUND_OFF


def test_the_local_rule_is_the_general_rule_for_the_resting_point_alone():
    theta, task = random_network(0)
    problem = mc.Problem(
        init=lambda omega, task: omega,
        inner=lambda phi, omega, task: squares(phi, task.train) + mc.Synapse(omega, -0.7).pull(phi),
        outer=lambda phi, omega, task: squares(phi, task.test),
    )
    omega = theta.omega
    free, nudged, expected = contrast_of(problem, omega, task)
    found, _ = mc.Synapse(omega, -0.7).contrast(free, nudged, BETA)
    assert relative_error(found, expected) < ROUND_OFF


def test_the_local_rule_is_the_general_rule_for_an_l2_penalty_alone():
    theta, task = random_network(0)
    log_lam = strengths("weight", theta.omega)
    start = theta.omega
    problem = mc.Problem(
        init=lambda log_lam, task: start,
        inner=lambda phi, log_lam, task: (
            squares(phi, task.train) + mc.Synapse(log_lam=log_lam).pull(phi)
        ),
        outer=lambda phi, log_lam, task: squares(phi, task.test),
    )
    free, nudged, expected = contrast_of(problem, log_lam, task)
    _, found = mc.Synapse(log_lam=log_lam).contrast(free, nudged, BETA)
    # The paper's form of it: lambda (phi_beta^2 - phi_0^2) / beta.
    by_hand = jax.tree.map(lambda s, b, f: jnp.exp(s) * (b**2 - f**2) / BETA, log_lam, nudged, free)
    assert relative_error(found, expected) < ROUND_OFF
    assert relative_error(found, by_hand) < ROUND_OFF


def test_each_synapse_sees_only_itself():
    omega = random_network(0)[0].omega
    free, nudged, log_lam = moved(omega, 1), moved(omega, 2), strengths("weight", omega)
    before = mc.Synapse(omega, log_lam).contrast(free, nudged, BETA)
    elsewhere = nudged | {"out": jax.tree.map(lambda leaf: leaf + 1.0, nudged["out"])}
    after = mc.Synapse(omega, log_lam).contrast(free, elsewhere, BETA)
    for one, other in zip(before, after, strict=True):
        jax.tree.map(np.testing.assert_array_equal, one["in"], other["in"])
        assert not np.array_equal(one["out"]["w"], other["out"]["w"])
