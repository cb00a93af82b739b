"""The online process against the ordinary rule, and what each of its imperfections does."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import EPS, forward_pass, meta_grad

import metacontrast as mc
from metacontrast import brain

N, M, BETA = 5, 4, 0.1


def item_loss(phi, item):
    return jnp.sum((forward_pass(phi, item.x) - item.y) ** 2)


def squares(phi, data):
    return jnp.sum(jax.vmap(item_loss, (None, 0))(phi, data))


PROBLEM = mc.Problem(
    init=lambda theta, task: theta[0],
    inner=lambda phi, theta, task: squares(phi, task.train) + mc.attraction(phi, *theta),
    outer=lambda phi, theta, task: squares(phi, task.test),
)


def example(seed):
    """theta, with its own lambda for each weight, and a task of `N` and `M` items."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape))
    omega = {
        "in": {"w": draw(1, 3), "b": draw(3)},
        "out": {"w": draw(3, 1), "b": draw(1)},
    }
    log_lam = jax.tree.map(lambda leaf: 0.5 * draw(*leaf.shape), omega)
    data = lambda n: mc.Data(draw(n, 1), draw(n, 1))
    return (omega, log_lam), mc.Task(data(N), data(M))


def learner(steps=40, rate=0.01, **hippocampus):
    return brain.Plasticity(item_loss, rate, steps, brain.Hippocampus(**hippocampus))


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


@partial(jax.jit, static_argnames=("free", "rule"))
def grad(free, rule, theta, task, key=None):
    """The meta-gradient; compiled once for each learner and rule."""
    return meta_grad(PROBLEM, free, rule, theta, task, key)


def tags(theta, task, free=None, nudged=None, key=0, **imperfect):
    rule = brain.Tagged(BETA, nudged or learner(20), **imperfect)
    return grad(free or learner(), rule, theta, task, jax.random.key(key))


def read(theta, phi):
    """What a synapse reads off itself, by hand: dL/domega and dL/dlog lambda."""
    omega, log_lam = theta
    lam = jax.tree.map(jnp.exp, log_lam)
    return (
        jax.tree.map(lambda p, o, s: -2 * s * (p - o), phi, omega, lam),
        jax.tree.map(lambda p, o, s: s * (p - o) ** 2, phi, omega, lam),
    )


@partial(jax.jit, static_argnames=("solve", "beta"))
def learned(solve, theta, task, phi, beta=0.0, key=0):
    """Where one phase ends that starts at phi."""
    return solve(PROBLEM.loss(theta, task, beta, jax.random.key(key)), phi).phi


def phases(theta, task, free=None, nudged=None, key=0):
    """phi_0 and phi_beta, by two separate runs of the learner."""
    phi_0 = learned(free or learner(), theta, task, theta[0], key=key)
    return phi_0, learned(nudged or learner(20), theta, task, phi_0, BETA, key)


# Both add the same numbers in another order: of each, an error of some eps, divided by beta.


def roundoff(theta, phi_0):
    return 100 * EPS * np.abs(flat(read(theta, phi_0))).max() / BETA


@given(st.integers(0, 2**31), st.sampled_from(["gain", "mix"]))
def test_tags_hold_the_contrastive_meta_gradient(seed, nudge):
    theta, task = example(seed)
    free, nudged = learner(nudge=nudge), learner(20, nudge=nudge)
    phi_0, phi_beta = phases(theta, task, free, nudged)
    found = flat(tags(theta, task, free, nudged))
    atol = roundoff(theta, phi_0)
    local = mc.synapse_contrast(phi_0, phi_beta, *theta, beta=BETA)
    np.testing.assert_allclose(found, flat(local), atol=atol, rtol=0)
    general = grad(free, mc.Contrastive(BETA, nudged=nudged), theta, task)
    np.testing.assert_allclose(found, flat(general), atol=atol, rtol=0)
    assert atol < 1e-9 * np.abs(flat(local)).max()


def test_value_and_diagnostics_are_those_of_the_rule():
    theta, task = example(0)
    nudged = learner(20)
    online = brain.Tagged(BETA, nudged).value_and_grad(PROBLEM, learner(), theta, task)[0]
    rule = mc.Contrastive(BETA, nudged=nudged).value_and_grad(PROBLEM, learner(), theta, task)[0]
    for a, b in zip(jax.tree.leaves(online), jax.tree.leaves(rule), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8)


def test_a_synapse_depends_on_no_other():
    rng = np.random.default_rng(0)
    state = {k: jnp.asarray(rng.normal(size=6)) for k in ("tag", "phi", "omega", "lam")}

    def after(state):
        pair = (state["tag"], state["tag"])
        return jnp.stack(brain.tagged(pair, state["phi"], state["omega"], state["lam"], -1.0, BETA))

    for slope in jax.tree.leaves(jax.jacrev(after)(state)):  # (tags, synapses, synapses)
        assert np.count_nonzero(np.asarray(slope) * (1 - np.eye(6))) == 0
        assert np.count_nonzero(slope) == 12


def test_learning_is_one_forward_pass_that_keeps_nothing():
    """What leaves the loops over steps is one state, without an axis of time."""
    theta, task = example(0)
    program = jax.make_jaxpr(
        lambda theta, task: brain.Tagged(BETA, learner(20)).value_and_grad(
            PROBLEM, learner(), theta, task
        )
    )(theta, task)
    # The last loop takes the slopes for the diagnostics in turn.
    *loops, _ = [eqn for eqn in program.jaxpr.eqns if eqn.primitive.name == "scan"]
    assert [loop.params["length"] for loop in loops] == [40, 20]
    for loop in loops:
        assert not loop.params["reverse"]
        # phi and two tags of its shape: whatever else came out would be stacked over the steps.
        assert len(loop.outvars) == 3 * len(jax.tree.leaves(theta[0]))


# Replay


def numbers(n, first=0.0):
    data = first + jnp.arange(float(n))
    return mc.Data(data, data)


def replayed(hippocampus, beta, steps, n=N, m=M):
    """`(item, gain)` of every replay."""
    memory = hippocampus.store(mc.Task(numbers(n), numbers(m, 100.0)))
    rounds = [hippocampus.replay(memory, t, beta) for t in range(steps)]
    return [(float(item.x), float(gain)) for one in rounds for item, gain in one]


def test_a_round_of_replays_weighs_the_items_as_the_losses_do():
    free = replayed(brain.Hippocampus(), 0.0, N)
    assert sorted(free) == [(float(i), N) for i in range(N)]
    rounds = N * M
    by_gain = replayed(brain.Hippocampus(), 0.3, rounds)
    assert len(by_gain) == 2 * rounds
    for item, weight in [(i, 1.0) for i in range(N)] + [(100 + j, 0.3) for j in range(M)]:
        total = sum(gain for x, gain in by_gain if x == item)
        assert total / rounds == pytest.approx(weight, rel=1e-12)


def test_mixing_replays_in_the_ratio_of_the_losses():
    beta, steps = 0.25, 300  # beta m = 1: of six replays one of a test item
    mixed = replayed(brain.Hippocampus(nudge="mix"), beta, steps)
    assert len(mixed) == steps and {gain for _, gain in mixed} == {N + beta * M}
    for item, weight in [(i, 1.0) for i in range(N)] + [(100 + j, beta) for j in range(M)]:
        total = sum(gain for x, gain in mixed if x == item)
        # Items come in turn: each at most one replay off its share.
        assert abs(total - steps * weight) <= N + beta * M


def test_a_small_buffer_holds_the_first_items_and_replays_them_more():
    small = replayed(brain.Hippocampus(capacity=2), 0.5, 4)
    assert small == [(0, 5), (100, 2), (1, 5), (101, 2), (0, 5), (100, 2), (1, 5), (101, 2)]


def test_what_is_stored_is_off_by_the_noise_and_stays_so():
    task = mc.Task(numbers(20_000), numbers(20_000))
    memory = brain.Hippocampus(noise=0.3).store(task, jax.random.key(0))
    for held, true in zip(jax.tree.leaves(memory.held), jax.tree.leaves(task), strict=True):
        # The standard error of a standard deviation is sd / sqrt(2 n): 0.0015; five of them.
        assert np.std(held - true) == pytest.approx(0.3, abs=0.0075)
    theta, task = example(3)
    noisy = learner(noise=0.3)
    both = [phases(theta, task, noisy, replace(noisy, steps=20), key) for key in (0, 0, 1)]
    np.testing.assert_array_equal(flat(both[0]), flat(both[1]))
    assert np.abs(flat(both[0]) - flat(both[2])).max() > 1e-3
    # Tagged draws the same memory as the two phases of the ordinary rule.
    found = flat(tags(theta, task, noisy, replace(noisy, steps=20)))
    local = mc.synapse_contrast(*both[0], *theta, beta=BETA)
    np.testing.assert_allclose(found, flat(local), atol=roundoff(theta, both[0][0]), rtol=0)


# Imperfections, each against its formula


def test_a_decaying_tag_loses_part_of_the_free_phase():
    theta, task = example(4)
    phi_0, phi_beta = phases(theta, task)
    kept = (1 - 0.01) ** 20  # steps between the two additions
    expected = (flat(read(theta, phi_beta)) - kept * flat(read(theta, phi_0))) / BETA
    found = flat(tags(theta, task, decay=0.01))
    np.testing.assert_allclose(found, expected, atol=roundoff(theta, phi_0), rtol=0)


def test_noise_of_tags_has_its_size_and_no_bias():
    theta, task = example(5)
    phi_0, phi_beta = phases(theta, task)
    exact = flat(tags(theta, task))
    keys = jax.random.split(jax.random.key(0), 2000)
    rule = brain.Tagged(BETA, learner(20), noise=0.1)
    each = jax.vmap(partial(grad, learner(), rule, theta, task))(keys)
    off = np.concatenate([leaf.reshape(2000, -1) for leaf in jax.tree.leaves(each)], 1) - exact
    size = 0.1 / BETA * np.hypot(flat(read(theta, phi_0)), flat(read(theta, phi_beta)))
    # Five standard errors, of the mean and of the standard deviation.
    assert np.all(np.abs(off.mean(0)) < 5 * size / np.sqrt(2000))
    np.testing.assert_allclose(off.std(0), size, rtol=5 / np.sqrt(4000))


def test_late_and_early_signals_read_other_weights():
    theta, task = example(6)
    free = lambda n: learned(learner(n), theta, task, theta[0])
    phi_0 = free(40)
    late = lambda n: flat(read(theta, learned(learner(n), theta, task, phi_0, BETA)))
    path = {-1: flat(read(theta, free(39))), 0: flat(read(theta, phi_0)), 1: late(1)}
    ends = {n: late(20 + n) for n in (-1, 0, 1)}
    expected = {(a, b): (ends[b] - path[a]) / BETA for a in path for b in ends}
    seen = set()
    for key in range(12):
        found = flat(tags(theta, task, key=key, jitter=1))
        apart = {pair: np.abs(found - e).max() for pair, e in expected.items()}
        pair = min(apart, key=apart.get)
        assert apart[pair] < roundoff(theta, phi_0)
        seen.add(pair)
    assert len(seen) > 3


def test_consolidating_at_once_is_biased_in_proportion_to_its_rate():
    theta, task = example(7)
    exact = flat(tags(theta, task))
    errors = [
        np.linalg.norm(flat(tags(theta, task, at_once=rate)) - exact) for rate in (1e-6, 2e-6)
    ]
    # Linear in the rate, to a relative order of rate / beta^2 = 2e-4.
    assert errors[1] / errors[0] == pytest.approx(2, rel=1e-2)
    # By hand: the nudged phase pulls to the omega, and with the lambda, that were consolidated.
    rate = 1e-3
    phi_0, _ = phases(theta, task)
    moved = brain.consolidated(theta, jax.tree.map(lambda g: -g / BETA, read(theta, phi_0)), rate)
    phi_beta = learned(learner(20), moved, task, phi_0, BETA)
    expected = (flat(read(moved, phi_beta)) - flat(read(theta, phi_0))) / BETA
    found = flat(tags(theta, task, at_once=rate))
    np.testing.assert_allclose(found, expected, atol=roundoff(theta, phi_0), rtol=0)


# Bad input


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: brain.Hippocampus(capacity=0), "capacity"),
        (lambda: brain.Hippocampus(noise=-1.0), "noise"),
        (lambda: brain.Hippocampus(nudge="push"), "nudge: unknown 'push'"),
        (lambda: learner(steps=0), "steps"),
        (lambda: brain.Tagged(0.0, learner()), "beta"),
        (lambda: brain.Tagged(BETA, learner(), decay=1.0), "decay"),
        (lambda: brain.Tagged(BETA, learner(), noise=-0.1), "noise"),
        (lambda: brain.Tagged(BETA, learner(), at_once=-0.1), "at_once"),
    ],
)
def test_bad_settings_name_themselves(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_what_does_not_fit_the_process_is_refused():
    theta, task = example(0)
    rule = brain.Tagged(BETA, learner(20))
    with pytest.raises(TypeError, match="solve: Tagged needs"):
        rule.value_and_grad(PROBLEM, lambda loss, phi0: phi0, theta, task)
    with pytest.raises(ValueError, match="theta: must be the pair"):
        rule.value_and_grad(PROBLEM, learner(), (theta[0], jnp.array(0.0)), task)
    with pytest.raises(ValueError, match="jitter: 20 steps are a whole phase"):
        replace(rule, jitter=20).value_and_grad(PROBLEM, learner(), theta, task)
    for noisy in (replace(rule, noise=0.1), replace(rule, jitter=1)):
        with pytest.raises(ValueError, match="key: noise and jitter"):
            noisy.value_and_grad(PROBLEM, learner(), theta, task)
    with pytest.raises(ValueError, match="key: a noisy memory"):
        rule.value_and_grad(PROBLEM, learner(noise=0.1), theta, task)
