"""The online process against the ordinary rule, and what each of its imperfections does."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import EPS, forward_pass

import metacontrast as mc
from metacontrast import brain
from metacontrast.brain._plasticity import memory_and_signal_keys

N, M, BETA = 5, 4, 0.1
FREE_STEPS, NUDGED_STEPS = 40, 20


def item_loss(phi, item):
    return jnp.sum((forward_pass(phi, item.x) - item.y) ** 2)


def squares(phi, data):
    return jnp.sum(jax.vmap(item_loss, (None, 0))(phi, data))


PROBLEM = mc.Problem(
    init=lambda theta, task: theta.omega,
    inner=lambda phi, theta, task: squares(phi, task.train) + theta.pull(phi),
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
    log_lam = jax.tree.map(lambda leaf: jnp.asarray(0.5 * rng.normal(size=leaf.shape)), omega)
    data = lambda n: mc.Data(draw(n, 1), draw(n, 1))
    return mc.Synapse(omega, log_lam), mc.Task(data(N), data(M))


def learner(steps=FREE_STEPS, **hippocampus):
    return brain.Plasticity(item_loss, 0.01, brain.Hippocampus(**hippocampus), steps=steps)


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


NOISY, MIXING = {"noise": 0.3}, {"nudge": "mix"}


@cache
def ordinary_and_tagged(**hippocampus):
    """`(theta, task, key) -> MetaGradients` by both rules on the same learners."""
    free, nudged = learner(**hippocampus), learner(NUDGED_STEPS, **hippocampus)
    rules = (mc.Contrastive(BETA, nudged=nudged), brain.Tagged(BETA, nudged))
    steps = [mc.meta_gradient(PROBLEM, free, rule, by_z=False) for rule in rules]
    return jax.jit(lambda theta, task, key: [step(theta, task, key) for step in steps])


def both(theta, task, hippocampus, key=0):
    """The results of both rules, and the phases of the first one."""
    ordinary, tagged = ordinary_and_tagged(**hippocampus)(theta, task, jax.random.key(key))
    (end,) = ordinary.phases.nudged
    return ordinary, tagged, (ordinary.phases.free.phi, end.phi)


@cache
def tags_by(**imperfect):
    rule = brain.Tagged(BETA, learner(NUDGED_STEPS), **imperfect)
    step = mc.meta_gradient(PROBLEM, learner(), rule)
    return jax.jit(lambda theta, task, key: step(theta, task, key).by_theta)


def tags(theta, task, key=0, **imperfect):
    return flat(tags_by(**imperfect)(theta, task, jax.random.key(key)))


@jax.jit
def paths(theta, pulled_to, task):
    """Where learning is after each step: a free phase, and nudged ones from its step 40."""
    plain, memory = learner(), brain.Hippocampus().store(task)

    def run(synapse, phi, steps, beta=None):
        lam = synapse.strengths(phi)

        def step(phi, t):
            phi = plain.update(phi, synapse, lam, memory, t, beta)
            return phi, phi

        return jax.lax.scan(step, phi, jnp.arange(steps))[1]

    free = run(theta, theta.omega, FREE_STEPS)
    phi_0 = jax.tree.map(lambda leaf: leaf[-1], free)
    return free, run(pulled_to, phi_0, NUDGED_STEPS + 1, BETA)


def at(path, steps):
    return jax.tree.map(lambda leaf: leaf[steps - 1], path)


def read(theta, phi):
    """What a synapse reads off itself, by hand: dL/domega and dL/dlog lambda."""
    omega, log_lam = theta
    lam = jax.tree.map(np.exp, log_lam)
    return mc.Synapse(
        jax.tree.map(lambda p, o, s: -2 * s * (p - o), phi, omega, lam),
        jax.tree.map(lambda p, o, s: s * (p - o) ** 2, phi, omega, lam),
    )


# Both add the same numbers in another order: of each, an error of some eps, divided by beta.


def roundoff(theta, phi_0):
    return 100 * EPS * np.abs(flat(read(theta, phi_0))).max() / BETA


@pytest.mark.parametrize("hippocampus", [NOISY, MIXING])
@given(seed=st.integers(0, 2**31))
def test_tags_hold_the_contrastive_meta_gradient(hippocampus, seed):
    theta, task = example(seed)
    ordinary, tagged, (phi_0, phi_beta) = both(theta, task, hippocampus)
    atol = roundoff(theta, phi_0)
    local = flat(theta.contrast(phi_0, phi_beta, BETA))
    np.testing.assert_allclose(flat(tagged.by_theta), local, atol=atol, rtol=0)
    np.testing.assert_allclose(flat(tagged.by_theta), flat(ordinary.by_theta), atol=atol, rtol=0)
    assert atol < 1e-9 * np.abs(local).max()


def test_value_and_diagnostics_are_those_of_the_rule():
    ordinary, tagged, _ = both(*example(0), MIXING)
    pairs = zip(
        jax.tree.leaves((ordinary.value, ordinary.aux)),
        jax.tree.leaves((tagged.value, tagged.aux)),
        strict=True,
    )
    for a, b in pairs:
        np.testing.assert_allclose(a, b, rtol=1e-8)


def test_a_synapse_depends_on_no_other():
    rng = np.random.default_rng(0)
    state = {k: jnp.asarray(rng.normal(size=6)) for k in ("tag", "phi", "omega", "lam")}

    def after(state):
        pair = mc.Synapse(state["tag"], state["tag"])
        return jnp.stack(brain.tag(pair, state["phi"], state["omega"], state["lam"], -1.0, BETA))

    slopes = jax.jit(jax.jacrev(after))(state)
    for slope in jax.tree.leaves(slopes):  # (tags, synapses, synapses)
        assert np.count_nonzero(np.asarray(slope) * (1 - np.eye(6))) == 0
        assert np.count_nonzero(slope) == 12


def test_learning_is_one_forward_pass_that_keeps_nothing():
    """What leaves the loops over steps is one state, without an axis of time."""
    theta, task = example(0)
    rule = brain.Tagged(BETA, learner(NUDGED_STEPS))
    program = jax.make_jaxpr(
        lambda theta, task: rule.value_and_grad(mc.Loss(PROBLEM, theta, task), learner())
    )(theta, task)
    # The last loop takes the slopes for the diagnostics in turn.
    *loops, _ = [eqn for eqn in program.jaxpr.eqns if eqn.primitive.name == "scan"]
    assert [loop.params["length"] for loop in loops] == [FREE_STEPS, NUDGED_STEPS]
    for loop in loops:
        assert not loop.params["reverse"]
        # phi and two tags of its shape: whatever else came out would be stacked over the steps.
        assert len(loop.outvars) == 3 * len(jax.tree.leaves(theta.omega))


def test_plasticity_runs_in_parts_as_any_solver():
    """Backpropagation through the last of two steps: what is stored has its noise there."""
    theta, task = example(1)
    noisy, key = learner(2, **NOISY), jax.random.key(0)
    step = mc.meta_gradient(PROBLEM, noisy, mc.Unrolled(truncate=1))

    @jax.jit
    def by_hand(theta, task):
        phi = noisy.init(mc.Loss(PROBLEM, theta, task, key), theta.omega)
        stopped = mc.Loss(PROBLEM, *jax.lax.stop_gradient((theta, task)), key)
        state = jax.lax.stop_gradient(noisy.step(stopped, phi, 0))
        loss = mc.Loss(PROBLEM, theta, task, key)
        return loss.outer(noisy.step(loss, state, 1).phi)

    result = step(theta, task, key)
    expected = jax.grad(by_hand, (0, 1))(theta, task)
    grads = flat((result.by_theta, result.by_z))
    np.testing.assert_allclose(grads, flat(expected), rtol=1e-10, atol=1e-12)


def test_with_one_item_plasticity_is_gradient_descent_on_the_whole_loss():
    theta, task = example(8)
    task = jax.tree.map(lambda leaf: leaf[:1], task)
    solvers = (learner(6), mc.descend(optax.sgd(0.01), 6))
    steps = [mc.meta_gradient(PROBLEM, s, mc.Contrastive(BETA), by_z=False) for s in solvers]
    one, other = jax.jit(lambda theta, task: [step(theta, task).phases for step in steps])(
        theta, task
    )
    for a, b in ((one.free, other.free), (one.nudged[0], other.nudged[0])):
        # Six steps of sums in another order.
        np.testing.assert_allclose(flat(a.phi), flat(b.phi), rtol=0, atol=100 * EPS)


def test_what_is_stored_and_when_it_is_signalled_are_drawn_apart():
    pair = memory_and_signal_keys(jax.random.key(0))
    numbers = {float(jax.random.uniform(key)) for key in (jax.random.key(0), *pair)}
    assert len(numbers) == 3


# Replay


def numbers(n, first=0.0):
    data = first + np.arange(float(n))
    return mc.Data(data, data)


def replays(hippocampus, beta, steps, n=N, m=M):
    """`(item, gain)` of every replay."""
    memory = hippocampus.store(mc.Task(numbers(n), numbers(m, 100.0)))
    replay = jax.vmap(
        lambda t: [(i.x, g + 0.0 * t) for i, g in hippocampus.replay(memory, t, beta)]
    )
    rounds = jax.jit(replay)(jnp.arange(steps))
    return [(float(x[t]), float(gain[t])) for t in range(steps) for x, gain in rounds]


def test_a_round_of_replays_weighs_the_items_as_the_losses_do():
    free = replays(brain.Hippocampus(), None, N)
    assert sorted(free) == [(float(i), N) for i in range(N)]
    rounds = N * M
    by_gain = replays(brain.Hippocampus(), 0.3, rounds)
    assert len(by_gain) == 2 * rounds
    for item, weight in [(i, 1.0) for i in range(N)] + [(100 + j, 0.3) for j in range(M)]:
        total = sum(gain for x, gain in by_gain if x == item)
        assert total / rounds == pytest.approx(weight, rel=1e-12)


def test_mixing_replays_in_the_ratio_of_the_losses():
    beta, steps = 0.3125, 300  # beta m = n/4: one of five replays is of a test item
    mixed = replays(brain.Hippocampus(nudge="mix"), beta, steps)
    assert len(mixed) == steps and {gain for _, gain in mixed} == {N + beta * M}
    for item, weight in [(i, 1.0) for i in range(N)] + [(100 + j, beta) for j in range(M)]:
        total = sum(gain for x, gain in mixed if x == item)
        # Items come in turn: each at most one replay off its share.
        assert abs(total - steps * weight) <= N + beta * M


def test_a_small_buffer_holds_the_first_items_and_replays_them_more():
    small = replays(brain.Hippocampus(capacity=2), 0.5, 4)
    assert small == [(0, 5), (100, 2), (1, 5), (101, 2), (0, 5), (100, 2), (1, 5), (101, 2)]


def test_what_is_stored_is_off_by_the_noise_and_stays_so():
    task = mc.Task(numbers(20_000), numbers(20_000))
    store = jax.jit(lambda key: brain.Hippocampus(**NOISY).store(task, key).items)
    items = store(jax.random.key(0))
    for stored, true in zip(jax.tree.leaves(items), jax.tree.leaves(task), strict=True):
        # The standard error of a standard deviation is sd / sqrt(2 n): 0.0015; five of them.
        assert np.std(stored - true) == pytest.approx(0.3, abs=0.0075)
    theta, task = example(3)
    results = [both(theta, task, NOISY, key) for key in (0, 0, 1)]
    one, same, other = (flat(phases) for _, _, phases in results)
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-3


# Imperfections, each against its formula


def test_a_decaying_tag_loses_part_of_the_free_phase():
    theta, task = example(4)
    free, nudged = paths(theta, theta, task)
    phi_0, phi_beta = at(free, FREE_STEPS), at(nudged, NUDGED_STEPS)
    rest = (1 - 0.01) ** NUDGED_STEPS  # steps between the two additions
    expected = (flat(read(theta, phi_beta)) - rest * flat(read(theta, phi_0))) / BETA
    result = tags(theta, task, decay=0.01)
    np.testing.assert_allclose(result, expected, atol=roundoff(theta, phi_0), rtol=0)


def test_noise_of_tags_has_its_size_and_no_bias():
    theta, task = example(5)
    free, nudged = paths(theta, theta, task)
    ends = [flat(read(theta, phi)) for phi in (at(free, FREE_STEPS), at(nudged, NUDGED_STEPS))]
    keys = jax.random.split(jax.random.key(0), 1000)
    each = jax.vmap(partial(tags_by(noise=0.1), theta, task))(keys)
    leaves = [np.reshape(leaf, (1000, -1)) for leaf in jax.tree.leaves(each)]
    off = np.concatenate(leaves, 1) - (ends[1] - ends[0]) / BETA
    size = 0.1 / BETA * np.hypot(*ends)
    # Five standard errors, of the mean and of the standard deviation.
    assert np.all(np.abs(off.mean(0)) < 5 * size / np.sqrt(1000))
    np.testing.assert_allclose(off.std(0), size, rtol=5 / np.sqrt(2000))


def test_late_and_early_signals_read_other_weights():
    theta, task = example(6)
    free, nudged = paths(theta, theta, task)
    early, on_time = (flat(read(theta, at(free, FREE_STEPS + n))) for n in (-1, 0))
    path = {-1: early, 0: on_time, 1: flat(read(theta, at(nudged, 1)))}
    ends = {n: flat(read(theta, at(nudged, NUDGED_STEPS + n))) for n in (-1, 0, 1)}
    expected = {(a, b): (ends[b] - path[a]) / BETA for a in path for b in ends}
    pairs = set()
    for key in range(12):
        result = tags(theta, task, key, jitter=1)
        errors = {pair: np.abs(result - e).max() for pair, e in expected.items()}
        pair = min(errors, key=errors.get)
        assert errors[pair] < roundoff(theta, at(free, FREE_STEPS))
        pairs.add(pair)
    assert all(set(times) == {-1, 0, 1} for times in zip(*pairs, strict=True))


def test_consolidating_at_once_pulls_the_nudged_phase_to_other_weights():
    theta, task = example(7)
    free, _ = paths(theta, theta, task)
    phi_0, rate = at(free, FREE_STEPS), 1e-3
    half = jax.tree.map(lambda g: -g / BETA, read(theta, phi_0))
    moved = brain.consolidate(theta, half, rate)
    _, nudged = paths(theta, moved, task)
    expected = flat(read(moved, at(nudged, NUDGED_STEPS))) - flat(read(theta, phi_0))
    result = tags(theta, task, at_once=rate)
    np.testing.assert_allclose(result, expected / BETA, atol=roundoff(theta, phi_0), rtol=0)


# Bad input


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: brain.Hippocampus(capacity=0), "capacity"),
        (lambda: brain.Hippocampus(noise=-1.0), "noise"),
        (lambda: brain.Hippocampus(noise=float("nan")), "noise"),
        (lambda: brain.Hippocampus(nudge="push"), "nudge: must be 'gain' or 'mix', not 'push'"),
        (lambda: learner(steps=0), "steps"),
        (lambda: brain.Tagged(0.0, learner()), "beta: must be finite and not zero"),
        (lambda: brain.Tagged(float("nan"), learner()), "beta: must be finite"),
        (lambda: brain.Tagged(float("inf"), learner()), "beta: must be finite"),
        (lambda: brain.Tagged(BETA, learner(), decay=1.0), "decay"),
        (lambda: brain.Tagged(BETA, learner(), noise=-0.1), "noise"),
        (lambda: brain.Tagged(BETA, learner(), at_once=-0.1), "at_once"),
        (lambda: brain.Tagged(BETA, learner(), jitter=-1), "jitter"),
    ],
)
def test_bad_settings_name_themselves(make, message):
    with pytest.raises(ValueError, match=message):
        make()


RULE = brain.Tagged(BETA, learner(NUDGED_STEPS))
LINEAR = mc.Contrastive(BETA, "symmetric", nudge="linear")
SAMPLED = replace(PROBLEM, sample=lambda z, key: z)


@pytest.mark.parametrize(
    ("error", "message", "rule", "change"),
    [
        (TypeError, "solver: Tagged needs brain.Plasticity", RULE,
         {"solver": mc.descend(optax.sgd(0.1), 3)}),
        (ValueError, "theta: Tagged needs a Synapse whose omega and log_lam", RULE,
         {"theta": example(0)[0]._replace(log_lam=jnp.array(0.0))}),
        (ValueError, "jitter: 20 steps are a whole phase", replace(RULE, jitter=20), {}),
        (ValueError, "key: noise and jitter", replace(RULE, noise=0.1), {}),
        (ValueError, "key: noise and jitter", replace(RULE, jitter=1), {}),
        (ValueError, "key: a noisy memory", RULE, {"solver": learner(noise=0.1)}),
        (TypeError, "nudge: brain.Plasticity replays test items when nudged, and LinearNudge",
         LINEAR, {}),
        (ValueError, "solver: brain.Plasticity replays the items of the task itself", RULE,
         {"problem": SAMPLED, "key": jax.random.key(0)}),
        (ValueError, "solver: brain.Plasticity replays the items of the task itself",
         mc.Contrastive(BETA), {"problem": SAMPLED, "key": jax.random.key(0)}),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(error, message, rule, change):
    theta, task = example(0)
    given = {"problem": PROBLEM, "solver": learner(), "theta": theta, "key": None} | change
    step = mc.meta_gradient(given["problem"], given["solver"], rule)
    with pytest.raises(error, match=message):
        jax.eval_shape(lambda theta: step(theta, task, given["key"]), given["theta"])


@pytest.mark.parametrize("rule", [RULE, mc.Contrastive(BETA)])
def test_a_theta_that_is_no_synapse_is_refused(rule):
    theta, task = example(0)
    total = lambda theta: sum(map(jnp.sum, jax.tree.leaves(theta)))
    pair = replace(
        PROBLEM, init=lambda theta, z: theta[0], inner=lambda phi, theta, z: total(theta)
    )
    step = mc.meta_gradient(pair, learner(), rule)
    with pytest.raises(TypeError, match=r"theta: brain\.Plasticity is a learner of"):
        jax.eval_shape(lambda theta: step(theta, task), tuple(theta))
