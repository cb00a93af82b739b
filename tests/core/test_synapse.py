"""The complex synapse: its pull, its special cases and its local meta-gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import EPS, forward_pass, random_network, relative_error

import metacontrast as mc

LAYERED = {"in": jnp.log(0.3), "out": {"w": jnp.log(2.0), "b": jnp.log(jnp.array([0.7]))}}


def strengths(kind, omega):
    """log lambda: one for all, one a layer (and finer in the last), one a weight."""
    rng = np.random.default_rng(1)
    draw = lambda leaf: jnp.asarray(rng.normal(size=leaf.shape))
    return {"scalar": 0.3, "layer": LAYERED, "weight": jax.tree.map(draw, omega)}[kind]


def spread(log_lam, phi):
    """The same strengths, one a weight, written out."""
    full = lambda s, part: jax.tree.map(lambda p: np.full(p.shape, s), part)
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
        lambda s, p, o: np.sum(np.exp(s) * (p - o) ** 2), spread(log_lam, phi), phi, omega
    )
    expected = float(sum(jax.tree.leaves(terms)))
    pull = jax.jit(lambda synapse, phi: synapse.pull(phi))(mc.Synapse(omega, log_lam), phi)
    assert float(pull) == pytest.approx(expected, rel=100 * EPS)


def test_without_omega_it_is_an_l2_penalty():
    phi = moved(random_network(0)[0].omega)
    expected = 2.0 * float(optax.tree.norm(phi, squared=True))
    pull = mc.Synapse(log_lam=jnp.log(2.0)).pull(phi)
    assert float(pull) == pytest.approx(expected, rel=100 * EPS)


def test_without_strengths_it_is_the_squared_distance():
    omega = random_network(0)[0].omega
    phi = moved(omega)
    expected = float(optax.tree.norm(optax.tree.sub(phi, omega), squared=True))
    assert float(mc.Synapse(omega).pull(phi)) == pytest.approx(expected, rel=100 * EPS)


def test_phi_may_be_a_plain_number():
    assert mc.Synapse(1.0, 0.0).pull(3.0) == 4.0


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_has_a_strength_and_a_resting_point(kind):
    omega = random_network(0)[0].omega
    log_lam = strengths(kind, omega)
    by_weight = mc.Synapse(None, log_lam).strengths(omega)
    expected = jax.tree.map(np.exp, spread(log_lam, omega))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=EPS), by_weight, expected)
    assert not any(leaf.any() for leaf in jax.tree.leaves(mc.Synapse().resting_point(omega)))
    assert mc.Synapse(omega).resting_point(omega) is omega


# The local rule against the general one, for a network and phases of a few Adam steps: the two
# agree for any pair of phases, solved or not.

BETA = 0.5
pytestmark = pytest.mark.filterwarnings("ignore:the meta-gradient may be wrong")
NUDGED = mc.descend(optax.adam(0.05), 5)
FREE = mc.descend(optax.adam(0.05), 8)


def squares(phi, data):
    return jnp.mean((jax.vmap(forward_pass, (None, 0))(phi, data.x) - data.y) ** 2)


PROBLEM = mc.Problem(
    init=lambda theta, z: z[0],
    inner=lambda phi, theta, z: squares(phi, z[1].train) + theta.pull(phi),
    outer=lambda phi, theta, z: squares(phi, z[1].test),
)
# The rule that knows no synapse, compiled once: with a strength for each weight.
GENERAL = mc.meta_gradient(PROBLEM, FREE, mc.Contrastive(BETA, nudged=NUDGED), by_z=False)
# lambda ((phi - omega)^2 - ...) / beta, of terms of order ten at most, summed over 13 weights.
ROUND_OFF = 1e3 * EPS / BETA


def local_and_general(synapse, omega, log_lam):
    """The local rule of a synapse, and the general one of the same with a strength a weight."""
    start, task = random_network(0)
    theta = jax.tree.map(np.asarray, mc.Synapse(omega, log_lam))  # alike for the compiler
    result = GENERAL(theta, (start.omega, task))
    phi_0, (end,) = result.phases.free.phi, result.phases.nudged
    return synapse.contrast(phi_0, end.phi, BETA), result.by_theta, phi_0, end.phi


@pytest.mark.parametrize("kind", KINDS)
def test_the_local_rule_is_the_general_rule(kind):
    omega = random_network(0)[0].omega
    log_lam = strengths(kind, omega)
    local, general, _, _ = local_and_general(
        mc.Synapse(omega, log_lam), omega, spread(log_lam, omega)
    )
    assert relative_error(local.omega, general.omega) < ROUND_OFF
    # One strength of many weights has the sum of their gradients.
    total = lambda tree: sum(jnp.sum(leaf) for leaf in jax.tree.leaves(tree))
    by_log_lam = {
        "scalar": lambda g: total(g),
        "layer": lambda g: {
            "in": total(g["in"]),
            "out": {"w": jnp.sum(g["out"]["w"]), "b": g["out"]["b"]},
        },
        "weight": lambda g: g,
    }[kind](general.log_lam)
    assert relative_error(local.log_lam, by_log_lam) < ROUND_OFF


def test_the_local_rule_is_the_general_rule_for_an_l2_penalty_alone():
    start = random_network(0)[0].omega
    log_lam, zero = strengths("weight", start), jax.tree.map(jnp.zeros_like, start)
    local, general, free, nudged = local_and_general(mc.Synapse(None, log_lam), zero, log_lam)
    # The paper's form of it: lambda (phi_beta^2 - phi_0^2) / beta.
    by_hand = jax.tree.map(lambda s, b, f: jnp.exp(s) * (b**2 - f**2) / BETA, log_lam, nudged, free)
    assert relative_error(local.log_lam, general.log_lam) < ROUND_OFF
    assert relative_error(local.log_lam, by_hand) < ROUND_OFF


def test_each_synapse_sees_only_itself():
    omega = random_network(0)[0].omega
    free, nudged = moved(omega, 1), moved(omega, 2)
    synapse = mc.Synapse(omega, strengths("weight", omega))
    before = synapse.contrast(free, nudged, BETA)
    elsewhere = nudged | {"out": jax.tree.map(lambda leaf: leaf + 1.0, nudged["out"])}
    after = synapse.contrast(free, elsewhere, BETA)
    for one, other in zip(before, after, strict=True):
        jax.tree.map(np.testing.assert_array_equal, one["in"], other["in"])
        assert not np.array_equal(one["out"]["w"], other["out"]["w"])


def test_a_resting_point_of_another_shape_is_refused():
    """It would be spread out, or phi be, in silence."""
    for omega, phi in ((jnp.zeros(1), jnp.ones(3)), (jnp.zeros((3, 1)), jnp.ones(3))):
        with pytest.raises(ValueError, match=r"^omega: must have the shapes of `phi`, float64"):
            mc.Synapse(omega).pull(phi)
