"""What a meta-gradient outside JAX says of itself: leaves it cannot learn, flags it raises."""

import warnings
from dataclasses import replace

import jax
import joblib
import numpy as np
import pytest

import metacontrast as mc
from metacontrast import external
from metacontrast._arrays import norm
from metacontrast._flags import Flags
from metacontrast.external._diagnostics import eps_of

RULE = mc.Contrastive(1e-3, "symmetric")


# phi is pulled to the task and to theta["to"] with strength theta["how"].
def solve(theta, task, beta, start):
    return (task + theta["how"] * theta["to"] + beta) / (1 + theta["how"] + beta)


def inner(phi, theta, task):
    return (phi - task) ** 2 + theta["how"] * (phi - theta["to"]) ** 2


def outer(phi, theta, task):
    return (phi - 1.0) ** 2


def phi_slope(phi, theta, task, beta):
    return 2 * ((phi - task) + theta["how"] * (phi - theta["to"]) + beta * (phi - 1.0))


PULL = external.Learner(solve, inner, outer)
THETA = {"how": 1.0, "to": np.array(2.0)}


def forbidden(theta, task, beta, start):
    pytest.fail("no nudged phase may run before theta is checked")


# Leaves of theta that no loss sees.


def test_a_theta_that_only_the_start_sees_is_refused():
    """MAML's case: the gradient would be 0, and is (1 - 2 rate)^steps 2 (phi_0 - 1)."""

    def few_steps(theta, task, beta, start):
        phi = theta["start"] if start is None else start
        for _ in range(5):
            phi = phi - 0.1 * (2 * (phi - task) + 2 * beta * (phi - 1.0))
        return phi

    learner = external.Learner(
        few_steps, lambda phi, theta, task: (phi - task) ** 2, outer, nudged=forbidden
    )
    with pytest.raises(ValueError, match=r"theta: no loss depends on \['start'\].*Unrolled.*Evol"):
        external.meta_gradient(learner, {"start": np.array(0.5)}, 3.0, RULE)


@pytest.mark.parametrize("analytic", [False, True])
def test_leaves_that_no_loss_sees_are_named(analytic):
    theta = {**THETA, "rate": 0.1, "layers": [np.ones(3), np.ones((2, 2))]}
    by_theta = lambda phi, theta, task, beta: {
        "how": (phi - theta["to"]) ** 2,
        "layers": [np.zeros(3), 0 * theta["layers"][1]],
        "rate": 0.0,
        "to": -2 * theta["how"] * (phi - theta["to"]),
    }
    learner = replace(PULL, nudged=forbidden, slope=by_theta if analytic else None)
    names = r"on \['layers'\]\[0\], \['layers'\]\[1\], \['rate'\], so that"
    with pytest.raises(ValueError, match=names):
        external.meta_gradient(learner, theta, 3.0, RULE)
    with pytest.raises(ValueError, match="on theta itself, so that"):
        external.meta_gradient(
            external.Learner(lambda *_: 1.0, lambda phi, *_: phi, lambda phi, *_: phi),
            1.0,
            3.0,
            RULE,
        )


@pytest.mark.parametrize("analytic", [False, True])
@pytest.mark.parametrize(
    "case", ["a relu that is dead", "phi is 0", "an interval", "not beside", "not defined", "empty"]
)
def test_a_slope_that_happens_to_be_zero_is_no_error(case, analytic):
    theta, extra = 1.0, lambda phi, theta: 0.0
    if case == "a relu that is dead":
        theta, extra = -5.0, lambda phi, theta: max(theta, 0.0)
    if case == "phi is 0":
        extra = lambda phi, theta: theta * phi**2
    if case == "an interval":  # phi is vectors whose common part is what the loss ignores
        extra = lambda phi, theta: theta * np.ptp(np.append(phi, 0.0))
    if case == "not beside":

        def extra(phi, theta):
            if phi != 0 or theta != 1.0:
                raise ArithmeticError("nowhere else")
            return 0.0

    if case == "not defined":
        theta, extra = 0.0, lambda phi, theta: 0.0 if theta == 0 else float("nan")
    if case == "empty":
        theta = np.zeros(0)
    learner = external.Learner(
        lambda theta, task, beta, start: np.zeros(()),
        lambda phi, theta, task: extra(phi, theta),
        lambda phi, theta, task: 0.0,
        slope=(lambda phi, theta, task, beta: 0 * theta) if analytic or theta is None else None,
    )
    if not analytic and case in ("not beside", "not defined"):
        learner = replace(learner, slope=lambda phi, theta, task, beta: 0.0)
    meta = external.meta_gradient(learner, theta, None, RULE)
    assert np.all(meta.by_theta == 0) and not any(meta.aux["flags"])


def test_a_leaf_that_some_tasks_use_is_learned_from_them():
    theta = {"a": 1.0, "b": 2.0}
    learner = external.Learner(
        lambda theta, task, beta, start: (theta[task] + beta * 5) / (1 + beta),
        lambda phi, theta, task: (phi - theta[task]) ** 2,
        lambda phi, theta, task: (phi - 5.0) ** 2,
    )
    with joblib.parallel_config("sequential"):
        mean = external.mean_meta_gradient(learner, theta, ["a", "b"], RULE)
        # phi_0 is theta itself: the derivatives are 2 (theta - 5), of each half the tasks.
        assert mean.by_theta == pytest.approx({"a": -4.0, "b": -3.0}, rel=1e-5)
        with pytest.raises(ValueError, match=r"no loss depends on \['b'\]"):
            external.mean_meta_gradient(learner, theta, ["a", "a"], RULE)
    with pytest.raises(ValueError, match=r"no loss depends on \['b'\]"):
        external.meta_gradient(learner, theta, "a", RULE)


def test_slopes_of_another_structure_are_refused():
    learner = replace(PULL, slope=lambda phi, theta, task, beta: {"how": 1.0})
    with pytest.raises(ValueError, match=r"slope: returned .* but theta is"):
        external.meta_gradient(learner, THETA, 3.0, RULE)


# Flags.


def flags_of(learner, theta=THETA, rule=RULE):
    with pytest.warns(RuntimeWarning) as said:
        meta = external.meta_gradient(learner, theta, 3.0, rule)
    assert len(said) == 1 and said[0].filename == __file__
    assert all(type(flag) is bool for flag in meta.aux["flags"])
    return meta.aux["flags"].raised(), str(said[0].message)


@pytest.mark.parametrize("with_slope", [False, True])
def test_no_flag_is_up_where_all_is_well(with_slope):
    learner = replace(PULL, phi_slope=phi_slope if with_slope else None)
    meta = external.meta_gradient(learner, THETA, 3.0, RULE)
    assert meta.aux["flags"] == Flags()
    if with_slope:  # each phase is at its minimum, to round-off over 2 beta
        assert meta.aux["linear_residual"] < 1e-12
    # phi_0 = (3 + 2) / 2; d phi_0 / d to = 1/2; d phi_0 / d how = (to - 3) / 4.
    assert meta.by_theta["to"] == pytest.approx(1.5, rel=1e-5)
    assert meta.by_theta["how"] == pytest.approx(-0.75, rel=1e-5)


def test_phases_that_did_not_move_are_idle():
    idle = replace(PULL, nudged=lambda theta, task, beta, start: start)
    raised, said = flags_of(idle)
    assert raised == ["idle"]
    assert "idle in 1 of 1 tasks, a nudged phase did not move" in said and "raise beta" in said
    raised, _ = flags_of(replace(idle, phi_slope=phi_slope))
    assert raised == ["idle", "unconverged"]


@pytest.mark.parametrize("slope", [None, lambda *_: 0.0])
def test_without_a_slope_phases_need_not_move(slope):
    flat = external.Learner(
        lambda theta, task, beta, start: np.array(1.0),
        lambda phi, theta, task: (phi - 1.0) ** 2 + theta * 0.5,
        lambda phi, theta, task: 2.0 * theta,
        phi_slope=slope,
    )
    meta = external.meta_gradient(flat, 3.0, None, RULE)
    assert meta.by_theta == pytest.approx(2.0) and not any(meta.aux["flags"])


def test_half_way_is_not_converged():
    """A phase that goes a share of its way leaves the rest of the linear system."""
    for share, expected in ((0.75, []), (0.25, ["unconverged"])):

        def part(theta, task, beta, start, share=share):
            return start + share * (solve(theta, task, beta, None) - start)

        learner = replace(PULL, nudged=part, phi_slope=phi_slope)
        if expected:
            assert flags_of(learner)[0] == expected
        else:
            meta = external.meta_gradient(learner, THETA, 3.0, RULE)
            assert not any(meta.aux["flags"])
            assert meta.aux["linear_residual"] == pytest.approx(1 - share, rel=1e-2)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
@pytest.mark.parametrize("far", [np.sqrt(10.5) * 1.5 + 1, np.sqrt(11.5) * 1.5 + 1, np.nan])
def test_a_nudged_phase_that_ran_away_is_unbounded(far, scale):
    """The outer loss of the free phase is 1.5^2: ten times that further is the limit."""
    away = replace(
        PULL,
        inner=lambda phi, theta, task: scale * inner(phi, theta, task),
        outer=lambda phi, theta, task: scale * outer(phi, theta, task),
        nudged=lambda theta, task, beta, start: far if beta < 0 else solve(theta, task, beta, 0),
    )
    if far < np.sqrt(11) * 1.5 + 1:
        assert not any(external.meta_gradient(away, THETA, 3.0, RULE).aux["flags"])
    else:
        raised, said = flags_of(away)
        assert raised == (["unbounded"] if np.isfinite(far) else ["idle", "unbounded", "nonfinite"])
        assert "unbounded in 1 of 1 tasks" in said


def test_a_stationary_point_that_is_no_minimum_is_unbounded():
    """Slopes that fall on the way of a phase, which ends at a maximum."""
    top = replace(PULL, phi_slope=lambda *args: -phi_slope(*args))
    assert flags_of(top)[0] == ["unbounded"]


def test_phases_closer_than_the_arithmetic_are_rounded():
    """Of float32, whose numbers about 2.5 lie 2.4e-7 apart."""
    close = replace(PULL, solve=lambda *args: np.asarray(solve(*args), np.float32))
    assert flags_of(close, rule=mc.Contrastive(2e-7))[0] == ["rounded"]
    assert external.meta_gradient(PULL, THETA, 3.0, mc.Contrastive(2e-7)).aux["flags"] == Flags()


@pytest.mark.parametrize(("units", "rounded"), [(8, True), (12, False)])
def test_ten_units_of_round_off_are_apart_as_in_the_core(units, rounded):
    single = lambda *args: np.asarray(solve(*args), np.float32)
    nudged = lambda theta, task, beta, start: start * np.float32(1 + units * 2.0**-23)
    learner = replace(PULL, solve=single, nudged=nudged)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        assert external.meta_gradient(learner, THETA, 3.0, RULE).aux["flags"].rounded is rounded


@pytest.mark.parametrize(("beta", "lost"), [(1e-3, True), (1.0, False)])
def test_slopes_of_sixteen_bits(beta, lost):
    """Rounded to 2^-11 of themselves, and apart by about beta; 1 / beta does not overflow them."""
    narrow = lambda x: np.asarray(1e4 * x, np.float16)
    slope = lambda phi, theta, task, beta: {
        "how": narrow((phi - theta["to"]) ** 2),
        "to": narrow(-2 * theta["how"] * (phi - theta["to"])),
    }
    exact = external.meta_gradient(PULL, THETA, 3.0, mc.Contrastive(beta))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        meta = external.meta_gradient(replace(PULL, slope=slope), THETA, 3.0, mc.Contrastive(beta))
    assert meta.aux["flags"] == exact.aux["flags"]._replace(rounded=lost)
    assert all(np.isfinite(x) for x in jax.tree.leaves(meta.by_theta))


def test_what_is_not_finite_is_flagged():
    huge = replace(PULL, slope=lambda *_: THETA, inner=lambda *_: np.inf)
    assert flags_of(huge)[0] == ["nonfinite"]
    nan = replace(PULL, slope=lambda phi, theta, task, beta: {"how": 1.0, "to": np.array(np.nan)})
    assert flags_of(nan)[0] == ["nonfinite"]
    lost = replace(PULL, phi_slope=lambda *_: np.nan)
    assert flags_of(lost)[0] == ["unbounded", "unconverged", "nonfinite"]


def test_flags_are_counted_over_tasks():
    idle = replace(PULL, nudged=lambda theta, task, beta, start: (
        start if task > 3 else solve(theta, task, beta, start)
    ))  # fmt: skip
    with joblib.parallel_config("sequential"):
        with pytest.warns(RuntimeWarning, match="idle in 2 of 3 tasks") as said:
            mean = external.mean_meta_gradient(idle, THETA, [3.0, 4.0, 5.0], RULE)
        assert len(said) == 1 and said[0].filename == __file__
        assert mean.flagged == {"idle": 2}
        assert external.mean_meta_gradient(PULL, THETA, [3.0, 4.0], RULE).flagged == {}


def test_norms_of_any_scale_and_type():
    for scale in (1e-200, 1.0, 1e200):
        assert norm([np.array([3 * scale]), 4 * scale]) == pytest.approx(5 * scale)
    assert norm([np.zeros(0)]) == 0.0 and np.isnan(norm([1.0, np.array([np.nan, 2.0])]))
    assert norm([np.array([1.0, -np.inf])]) == np.inf
    assert eps_of([np.zeros(1, np.float32), 1.0]) == 2.0**-23
    assert eps_of([1.0, np.zeros(1, int)]) == eps_of([np.zeros(1, int)]) == 2.0**-52


@pytest.mark.parametrize("rule", [mc.FirstOrder(), mc.Unrolled(), 0.1])
def test_rules_that_are_no_contrast_are_refused(rule):
    with pytest.raises(TypeError, match=r"rule: must be a Contrastive, not .*; learners outside"):
        external.meta_gradient(PULL, THETA, 3.0, rule)
    with pytest.raises(TypeError, match=r"rule: .*give Contrastive\(beta\)"):
        external.mean_meta_gradient(PULL, THETA, [3.0], rule)


def test_tasks_are_a_list():
    with pytest.raises(TypeError, match=r"tasks: must be a list, not .*generator; write list"):
        external.mean_meta_gradient(PULL, THETA, (task for task in [3.0]), RULE)
