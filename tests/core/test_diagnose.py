"""The verdict on a meta-gradient is that of its true error, and costs what it is said to."""

from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import relative_error

import metacontrast as mc
from metacontrast._configuration import Configuration
from metacontrast._diagnose import _proposal, _steadier
from metacontrast._directional import Judge, Look
from metacontrast._estimator._base import Phases
from metacontrast._flags import REMEDIES
from metacontrast._solver._base import Start

# phi is pulled to x by springs of these strengths and to theta by springs of 1, and should be at y.
STRENGTHS = jnp.array([0.5, 4.0, 20.0])
TASK = {"train": jnp.array([1.0, -2.0, 0.5]), "test": jnp.array([0.3, 1.0, -1.0])}
THETA = jnp.array([0.4, 0.1, -0.7])
LONG, LINEAR = mc.descend(optax.sgd(0.04), 400), {"nudge": "linear"}


def inner(phi, theta, task):
    strengths = STRENGTHS.astype(phi.dtype)
    return 0.5 * jnp.sum(strengths * (phi - task["train"]) ** 2 + (phi - theta) ** 2)


problem = mc.Problem(
    init=lambda theta, task: theta,
    inner=inner,
    outer=lambda phi, theta, task: 0.5 * jnp.sum((phi - task["test"]) ** 2),
)


def ask(rule, solver=LONG, problem=problem, theta=THETA, task=TASK, key=None, **more):
    return mc.diagnose(problem, solver, rule, theta, task, key, **more)


def true_error(rule, solver=LONG, problem=problem, theta=THETA, task=TASK, key=None):
    """Relative to the gradient of all that the learner did."""
    run = lambda rule: mc.meta_gradient(problem, solver, rule, by_z=False)(theta, task, key)
    return relative_error(run(rule).by_theta, run(mc.Unrolled()).by_theta)


# Closed forms


def test_an_exact_contrast_is_trusted():
    found = ask(mc.Contrastive(0.01, "symmetric", **LINEAR))
    assert found.verdict == "trust" and found.flags == () and found.proposal is None
    assert found.cosine == pytest.approx(1, abs=1e-9) and found.error < 1e-8
    assert found.nudge < 1e-8 and found.keys is None and found.precision is None
    text = str(found).splitlines()
    assert text[0] == "trust: the estimate agrees with differences of the meta-loss."
    assert text[-1] == "  flags: none" and len(text) < 9


@pytest.mark.parametrize("beta", [0.1, 20.0])
def test_the_error_is_the_true_one(beta):
    """The contrast is `(phi_0 - y) / (h + 1 + beta)` in place of `(phi_0 - y) / (h + 1)`."""
    rule = mc.Contrastive(beta)
    phi = (STRENGTHS * TASK["train"] + THETA) / (STRENGTHS + 1)
    slope = [(phi - TASK["test"]) / (STRENGTHS + 1 + b) for b in (0.0, beta)]
    found, expected = ask(rule), relative_error(slope[1], slope[0])
    assert found.error == pytest.approx(expected, rel=0.02)
    cosine = float(slope[0] @ slope[1] / jnp.linalg.norm(slope[0]) / jnp.linalg.norm(slope[1]))
    assert found.cosine == pytest.approx(cosine, abs=1e-3)


bent = mc.Problem(
    init=problem.init,
    inner=lambda phi, theta, task: jnp.sum((phi - task["train"]) ** 2 + (phi - theta) ** 2),
    outer=lambda phi, theta, task: jnp.sum(jnp.cos(4 * phi) * jnp.array([1.0, 2.0, 3.0])),
)


@pytest.mark.filterwarnings("ignore:the meta-gradient may be wrong")
def test_a_beta_that_is_far_too_large():
    found = ask(mc.Contrastive(30.0), problem=bent)
    assert found.verdict == "do not trust" and found.nudge > 0.1
    assert found.error == pytest.approx(true_error(mc.Contrastive(30.0), problem=bent), rel=0.1)
    assert found.proposal.cosine > 0.95
    # Learning has converged: no phase needs to learn again.
    cg = mc.Contrastive(None, "symmetric", nudge="linear", nudged=mc.secant_cg(20))
    assert found.proposal.estimator == cg and found.straight is None
    assert str(found).startswith(
        "do not trust: try Contrastive(beta=None, scheme='symmetric', nudge='linear', "
        "nudged=secant_cg(20)), whose cosine is 1 here."
    )
    assert ask(mc.Contrastive(0.01), problem=bent).verdict == "trust"


@pytest.mark.filterwarnings("ignore:the meta-gradient may be wrong")
def test_a_learner_that_did_not_converge():
    rule, short = mc.Contrastive(0.01), mc.descend(optax.sgd(0.04), 1)
    found = ask(rule, short)
    assert found.verdict == "do not trust" and "unconverged" in found.flags
    assert 0.5 < found.error / true_error(rule, short) < 2
    assert found.linear_residual > 0.5
    # Learning has not converged: what it did is followed.
    assert found.proposal == (mc.Trajectory(), pytest.approx(1, abs=1e-6))
    assert "try Trajectory(), whose cosine is 1 here" in found.advice
    assert ask(mc.Unrolled(), short).verdict == "trust"


def test_a_tolerance_above_the_nudge():
    found = ask(mc.Contrastive(1e-4), mc.until_converged(optax.sgd(0.04), 1e-2))
    assert found.verdict == "do not trust" and "idle" in found.flags
    assert np.isnan(found.cosine) and found.advice == REMEDIES["idle"] + "."


# Types, and sizes of theta


def halved(kind, theta=THETA):
    """The theta and the task in this type."""
    return {"theta": theta.astype(kind), "task": jax.tree.map(lambda x: x.astype(kind), TASK)}


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore:the meta-gradient may be wrong")
def test_a_tiny_beta_in_float32():
    at, rule, solver = halved(jnp.float32), mc.Contrastive(1e-7), mc.newton_cg(1e-9, 5)
    found = ask(rule, solver, **at)
    phi = (STRENGTHS * TASK["train"] + THETA) / (STRENGTHS + 1)
    exact = ((phi - TASK["test"]) / (STRENGTHS + 1)).astype(jnp.float32)
    estimate = mc.meta_gradient(problem, solver, rule)(*at.values()).by_theta
    assert found.verdict != "trust" and "rounded" in found.flags and found.precision > 0.1
    assert found.error == pytest.approx(relative_error(estimate, exact), rel=0.1)


def test_a_moderate_beta_in_float32():
    found = ask(mc.Contrastive(0.05, "symmetric", **LINEAR), **halved(jnp.float32))
    assert found.verdict == "trust" and found.precision < 1e-3


@pytest.mark.parametrize("beta, verdict", [(0.3, "trust"), (1e-7, "do not trust")])
def test_a_theta_of_bfloat16(beta, verdict):
    """The learner computes in float32."""
    wide = replace(problem, init=lambda theta, task: theta.astype(jnp.float32))
    at = halved(jnp.float32) | {"theta": THETA.astype(jnp.bfloat16)}
    found = ask(mc.Contrastive(beta, "symmetric", **LINEAR), problem=wide, **at)
    assert found.verdict == verdict


def test_a_theta_of_a_single_number():
    """No direction is left beside the estimate."""
    found = ask(mc.Contrastive(20.0), theta=jnp.array(0.4), problem=problem_of_one)
    assert found.cosine == pytest.approx(1) and found.verdict == "trust"
    expected = true_error(mc.Contrastive(20.0), theta=jnp.array(0.4), problem=problem_of_one)
    assert found.error == pytest.approx(expected, rel=0.01) and expected > 0.5
    assert "its length is not" in found.advice


problem_of_one = replace(problem, init=lambda theta, task: theta * jnp.ones(3))


def test_a_theta_of_several_leaves():
    parts = lambda theta: jnp.stack([theta["a"], *theta["b"]])
    tree = mc.Problem(
        init=lambda theta, task: parts(theta),
        inner=lambda phi, theta, task: inner(phi, parts(theta), task),
        outer=problem.outer,
    )
    found = ask(mc.Contrastive(1.0), problem=tree, theta={"a": THETA[0], "b": THETA[1:]})
    assert found.error == pytest.approx(ask(mc.Contrastive(1.0)).error, rel=1e-6)


# What is random, what has a body


@pytest.mark.filterwarnings("ignore:the meta-gradient may be wrong")
def test_a_learner_that_draws():
    jitter = lambda task, key: task | {"train": task["train"] + jax.random.normal(key, (3,))}
    noisy = replace(problem, sample=jitter)
    found = ask(mc.Contrastive(0.1), problem=noisy, key=jax.random.key(0))
    assert -1 <= found.keys <= 1 and found.precision is None


def test_features_are_composed():
    """A body in front of theta and of the task, which no phase runs again."""

    def body(theta, task):
        seen.append(theta)
        return theta["w"] * theta["head"], task | {"train": theta["w"] * task["train"]}

    seen, slow = [], {"w": jnp.array(0.8), "head": THETA}
    rule = mc.Contrastive(1.0)
    found = ask(rule, theta=slow, features=body)
    joined = lambda rule: jax.grad(
        lambda theta: mc.meta_loss(problem, LONG, rule)(*body(theta, TASK))
    )(slow)
    expected = relative_error(joined(rule), joined(mc.Unrolled()))
    assert found.error == pytest.approx(expected, rel=0.05)


@pytest.mark.filterwarnings("ignore:the meta-gradient may be wrong")
@pytest.mark.parametrize(
    "rule, verdict",
    [
        (mc.Unrolled(), "trust"),
        (mc.Implicit(), "trust"),
        (mc.FirstOrder(), "doubt"),
        (mc.Reptile(), "do not trust"),
        (mc.Evolution(0.01, 40), None),
    ],
    ids=lambda x: type(x).__name__,
)
def test_every_estimator(rule, verdict):
    found = ask(rule, key=jax.random.key(0))
    assert found.nudge is None and found.verdict == (verdict or found.verdict)
    if verdict is None:
        return
    # Two directions beside the estimate are all there are.
    assert found.error == pytest.approx(true_error(rule), rel=0.05, abs=1e-5)


# The price


@dataclass(frozen=True, eq=False)
class Counter(mc.Solver):
    """A solver that counts the phases that are run."""

    solver: mc.Solver
    phases: list = field(default_factory=list)

    def init(self, loss, phi, memory=None):
        jax.debug.callback(lambda: self.phases.append(1))
        return self.solver.init(loss, phi, memory)

    def step(self, loss, state, t):
        return self.solver.step(loss, state, t)


@pytest.mark.filterwarnings("ignore:the meta-gradient may be wrong")
@pytest.mark.parametrize(
    "rule, phases",
    [
        (mc.Contrastive(0.01), 2),
        (mc.Contrastive(30.0), 2),
        (mc.Contrastive(30.0, "symmetric"), 3),
        (mc.FirstOrder(), 2),
        (mc.Unrolled(), 2),
    ],
)
def test_at_most_eighteen_meta_gradients(rule, phases):
    solver = Counter(LONG, steps=20)
    wide = replace(bent, sample=lambda task, key: task)
    at = {"theta": jnp.concatenate([THETA, THETA, THETA])}
    many = replace(
        wide,
        init=lambda theta, task: theta[:3],
        inner=lambda phi, theta, task: inner(phi, theta.reshape(3, 3).sum(axis=0), task),
    )
    mc.diagnose(many, solver, rule, **at, z=TASK, key=jax.random.key(0))
    jax.effects_barrier()
    assert 10 < len(solver.phases) <= 18 * phases


# What an estimate that is right is worth


def test_a_slope_that_holds_over_a_step_of_theta():
    found = ask(mc.Contrastive(0.01, "symmetric", **LINEAR))
    # What phi comes to is linear in theta, so that central differences of its squares are exact.
    assert found.straight == pytest.approx(1, abs=1e-6)


def test_a_slope_that_holds_for_no_step_is_said_to():
    """phi goes 18 steps of the logistic map, on which paths part by 2 a step."""
    chaos = mc.Problem(
        init=lambda theta, task: theta,
        inner=lambda phi, theta, task: jnp.sum(4 * phi**3 / 3 - 3 * phi**2 / 2),
        outer=lambda phi, theta, task: 100 + jnp.sum(phi),
    )
    solver, theta = mc.descend(optax.sgd(1.0), 18), jnp.array([0.3])
    found = ask(mc.Unrolled(), solver, chaos, theta)
    assert found.verdict == "trust" and abs(found.straight) < 0.1
    assert "only for changes too small to matter" in found.advice


# The judge


def test_more_directions_where_a_few_say_that_all_is_well():
    rows = np.linspace(-1, 1, 50)
    calls = []

    def at(way):
        calls.append(way)
        return way, float(rows @ (np.ones(50) + way))

    judge = Judge(at, np.ones(50), float(rows.sum() + 1), 2e-16, 2e-16)
    assert judge.look(rows).verdict == "trust" and len(calls) == 16
    assert all(abs(rows @ way) < 1e-12 * np.linalg.norm(way) * 6 for way in calls[4:14])
    assert judge.look(np.ones(50) + rows).verdict == "do not trust" and len(calls) == 32


def test_a_kink_within_a_step_is_no_error_of_the_estimate():
    rows, eps = np.ones(3), 1.2e-7  # steps are of about 0.005
    kink = lambda way: 50 * max(0.0, float(way @ [1, -1, 0]) - 2e-3)
    calls = []

    def at(way):
        calls.append(way)
        return way, float(rows @ (np.ones(3) + way)) + kink(way)

    judge = Judge(at, np.ones(3), 3.0, eps, eps)
    assert judge._at_step(rows / 3**0.5, 3**0.5, judge._step(3**0.5), (2,)).verdict != "trust"
    found = judge.look(rows)
    assert found.verdict == "trust" and found.cosine == pytest.approx(1)
    wrong = judge.look(np.array([1.0, 1.0, -1.0]))
    assert wrong.verdict == "do not trust"
    # In narrow arithmetic a tenth of the step is round-off: it is not asked.
    calls.clear()
    assert Judge(at, np.ones(3), 3.0, 8e-3, 8e-3).look(-rows).verdict != "trust"
    assert len(calls) == 8


def kinked(rate, steps):
    """Of a network with ReLU, normalised, as few-shot learners have them, in float32."""
    draw = lambda seed, *shape: jax.random.normal(jax.random.key(seed), shape, jnp.float32)
    x, y, w, v = draw(0, 40, 10), draw(1, 40), draw(2, 10, 400), draw(3, 400)
    theta = {"w": w / 10**0.5, "v": v / 20}

    def error(phi, part):
        a = x[:part] @ phi["w"]
        a = (a - a.mean(0, keepdims=True)) / (a.std(0, keepdims=True) + 0.01)
        return jnp.mean((jax.nn.relu(a) @ phi["v"] - y[:part]) ** 2)

    apart = lambda phi, theta: sum(jnp.sum((phi[name] - theta[name]) ** 2) for name in theta)
    learned = mc.Problem(
        init=lambda theta, task: theta,
        inner=lambda phi, theta, task: error(phi, 20) + 0.01 * apart(phi, theta),
        outer=lambda phi, theta, task: error(phi, 40),
    )
    return learned, mc.descend(optax.sgd(rate), steps), theta


EXACT = [
    mc.Unrolled(),
    pytest.param(mc.Trajectory(product="exact"), marks=pytest.mark.thorough),
]


@pytest.mark.parametrize("rule", EXACT, ids=lambda rule: type(rule).__name__)
def test_a_derivative_is_trusted_where_kinks_hide_that_it_is_right(rule):
    learned, solver, theta = kinked(0.05, 8)
    run = Configuration(learned, solver, theta, None, None)
    d, meta = run.gradient(rule)(1.0, None)
    assert run.judge(float(meta.value)).look(d).verdict != "trust"  # steps of 1e-3 and 1e-4
    found = ask(rule, solver, learned, theta, None)
    assert found.verdict == "trust" and found.cosine > 0.999 and found.error < 0.05
    assert found.straight is not None


def test_one_that_is_cut_short_is_no_derivative_in_wider_arithmetic_either():
    learned, solver, theta = kinked(0.05, 8)
    assert ask(mc.Unrolled(truncate=1), solver, learned, theta, None).verdict != "trust"


def test_a_function_with_jumps_is_no_judge():
    rough = lambda way: (way, float(np.sum(way) + 1e3 * np.sin(1e9 * np.sum(way))))
    look = Judge(rough, np.ones(2), 1.0, 2e-16, 2e-16).look(np.ones(2))
    assert look.verdict == "do not trust" or not look.is_smooth


@pytest.mark.parametrize("d", [[0.0, 0.0], [np.nan, 1.0], [np.inf, 1.0]])
def test_an_estimate_that_is_no_direction(d):
    look = Judge(lambda way: pytest.fail(), np.ones(2), 1.0, 2e-16, 2e-16).look(np.array(d))
    assert look.verdict == "do not trust" and look.is_zero == (not any(d))


def test_whole_numbers_stay_so_in_wider_arithmetic():
    counted = replace(
        problem,
        outer=lambda phi, theta, task: 0.5 * jnp.sum((phi - task["test"])[task["which"]] ** 2),
    )
    at = halved(jnp.float32)
    at["task"] |= {"which": jnp.array([0, 2])}
    found = ask(mc.Contrastive(0.05, "symmetric", **LINEAR), problem=counted, **at)
    assert found.precision is not None and found.precision < 1e-3


# What is proposed, and refused


def test_bad_input_is_refused_before_anything_is_learned():
    lost = replace(problem, outer=lambda phi, theta, task: jnp.sum(phi) * jnp.nan)
    with pytest.raises(ValueError, match=r"^problem\.outer: the loss is nan where learning starts"):
        ask(mc.Contrastive(0.1), lambda loss, phi: pytest.fail("learns"), lost)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_proposal_follows_the_curvature_along_the_nudge(sign):
    """Of a quarter, also where learning stands on a top; phi, of length 5, is to move by a 50th."""
    start, nudged = jnp.array([3.0, 4.0]), mc.descend(optax.sgd(0.1), 5)
    flat = mc.Problem(
        init=lambda theta, task: start,
        inner=lambda phi, theta, task: sign * jnp.sum((phi - theta) ** 2) / 8,
        outer=lambda phi, theta, task: jnp.sum(jnp.sin(phi) * jnp.array([1.0, 2.0])),
    )
    run = Configuration(flat, lambda loss, phi: phi, jnp.zeros(2), None, None)
    nudge = float(jnp.linalg.norm(jnp.cos(start) * jnp.array([1.0, 2.0])))
    assert run.stiffness(Start(start)) == tuple(map(pytest.approx, (0.25, 5.0, nudge)))
    rule = mc.Contrastive(0.1, nudged=nudged)
    phases = Phases(Start(start))
    meta = mc.MetaGradient(jnp.array(1.0), None, aux={"residual": 1.0}, phases=phases)
    # A meta-loss that rises wherever it is looked at.
    judge = Judge(lambda way: (way, 1 + np.linalg.norm(way)), np.zeros(2), 1.0, 1e-16, 1e-16)
    followed, steadier = _steadier(run, rule, meta)
    expected = mc.Contrastive(0.05, "symmetric", nudge="linear", damping=0.2, nudged=nudged)
    assert followed == mc.Trajectory() and steadier == expected
    # The steps of this learner go nowhere, and what they come to is no direction.
    assert _proposal(run, rule, meta, judge, Look(0.1, 1.0, 1.0, True)) is None
