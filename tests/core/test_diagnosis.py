"""What a diagnosis concludes from its numbers, and how the judge chooses its steps; no learning."""

import math

import numpy as np
import pytest

import metacontrast as mc
from metacontrast._diagnosis import NOT_SMOOTH, Proposal, conclude
from metacontrast._directional import FARTHEST, Judge, Look, change, cosine
from metacontrast._flags import REMEDIES, REMEDIES_OUTSIDE, Flags
from metacontrast.external._diagnostics import warn_of

RULE, EPS = mc.Contrastive(0.1), 2.0**-52
BAD = Look(cosine=0.5, error=2.0, size=1.0, is_smooth=True)
AT_MINIMUM = mc.Contrastive(None, "symmetric", nudge="linear", nudged=mc.secant_cg(3))
STEADIER = mc.Contrastive(0.5, "symmetric", nudge="linear", damping=2.0)


def advice(look=BAD, rule=RULE, flags=(), **numbers):
    return conclude(rule, look, flags=list(flags), **numbers).advice


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({"nudge": 0.31}, "beta is too large"),
        ({"nudge": 0.29, "precision": 0.11}, "round-off decides"),
        ({"precision": 0.09, "keys": 0.49}, "noise decides"),
        ({"keys": 0.51, "linear_residual": 1.0}, REMEDIES["unconverged"]),
        ({"keys": 0.51}, REMEDIES["unconverged"]),
        ({"nudge": 0.31, "precision": 0.11, "keys": 0.1}, "beta is too large"),
        ({"rule": mc.Reptile()}, "Reptile does not point where the meta-loss falls"),
        ({"rule": mc.Unrolled(truncate=2)}, "Unrolled does not point where the meta-loss falls"),
        ({"rule": mc.Unrolled()}, NOT_SMOOTH),
        ({"rule": mc.Trajectory()}, NOT_SMOOTH),
        ({"rule": mc.Implicit("cg"), "linear_residual": 1.0}, REMEDIES["unconverged"]),
    ],
)
def test_what_is_beyond_its_bound_is_what_is_advised_about(numbers, words):
    assert advice(**numbers).startswith(words)


def test_where_there_is_no_beta_none_is_to_be_raised():
    zero = BAD._replace(cosine=math.nan, is_zero=True)
    assert "beta" in advice(zero) and "beta" not in advice(zero, mc.Unrolled())
    assert "see that theta is in a loss" in advice(zero, mc.Unrolled())
    for rule in (mc.Reptile(), mc.Implicit("cg"), AT_MINIMUM):
        assert "beta" not in advice(zero, rule)


@pytest.mark.parametrize("name", ["nonfinite", "rounded", "unbounded", "idle"])
def test_a_flag_is_surer_than_a_number(name):
    assert advice(flags=[name], nudge=1.0) == REMEDIES[name] + "."


def test_half_of_beta_says_nothing_of_bends_where_phases_did_not_converge():
    assert advice(flags=["unconverged"], nudge=1.0) == REMEDIES["unconverged"] + "."
    assert advice(flags=["unconverged"], nudge=1.0, keys=0.1).startswith("noise decides")


@pytest.mark.parametrize("numbers", [{"nudge": 1.0}, {"keys": 0.1}, {"linear_residual": 1.0}])
def test_outside_jax_no_rule_is_advised_that_is_not_there(numbers):
    assert "linear" in advice(**numbers) or "or Trajectory" in advice(**numbers)
    said = advice(outside=True, **numbers)
    assert "linear" not in said and "or Trajectory" not in said
    with pytest.warns(RuntimeWarning) as warned:
        warn_of([Flags(unbounded=True, unconverged=True)])
    assert REMEDIES_OUTSIDE["unbounded"] in str(warned[0].message)
    assert not any(word in str(warned[0].message) for word in ("linear", "Trajectory"))


def test_what_was_tried_and_helped_is_proposed():
    tried = lambda found: advice(proposal=Proposal(STEADIER, found), nudge=1.0)
    for found in (0.85, 0.99):
        assert "try Contrastive(beta=0.5, scheme='symmetric', nudge='linear', damping=2.0)" in (
            tried(found)
        )
    # Not what is refused itself, nor what is no better.
    assert tried(0.84).startswith("beta is too large")
    near = BAD._replace(cosine=0.9)
    assert advice(near, proposal=Proposal(STEADIER, 0.89), nudge=1.0).startswith("beta is too")
    # Nor anything before a phase that did not move.
    assert advice(flags=["idle"], proposal=Proposal(STEADIER, 0.99)) == REMEDIES["idle"] + "."


def test_estimates_that_are_zero_and_functions_that_are_rough():
    nothing = Look(math.nan, math.nan, math.nan, True, is_zero=True)
    assert advice(nothing).startswith("the estimate is exactly 0")
    assert advice(BAD._replace(is_smooth=False)).startswith("the meta-loss is not smooth")


@pytest.mark.parametrize(("error", "words"), [(0.51, "but its length is not"), (0.49, "agrees")])
def test_a_direction_that_is_right_may_be_too_long(error, words):
    found = conclude(RULE, Look(0.99, error, 1.0, True), flags=[])
    assert found.verdict == "trust" and words in found.advice


@pytest.mark.parametrize(
    ("found", "is_smooth", "verdict"),
    [
        (0.95, True, "trust"),
        (0.95, False, "doubt"),
        (0.94, True, "doubt"),
        (0.85, True, "do not trust"),
        (math.nan, True, "do not trust"),
    ],
)
def test_a_verdict_is_that_of_the_cosine(found, is_smooth, verdict):
    assert Look(found, 0.1, 1.0, is_smooth).verdict == verdict


# The judge


def steps_of(theta, value, d, **eps):
    """How far the judge goes along an estimate."""
    ways = []

    def at(way):
        ways.append(np.linalg.norm(way))
        return way, value

    Judge(at, theta, value, **{"eps": EPS, "theta_eps": EPS} | eps).slope(d)
    return ways


def test_steps_change_the_function_by_the_cube_root_of_round_off():
    theta, d = np.full(4, 3.0), np.array([2.0, 0.0, 0.0, 0.0])
    assert steps_of(theta, 20.0, d) == pytest.approx([EPS ** (1 / 3) * 20 / 2])
    # In narrow types by a twentieth, which is less than that root.
    assert steps_of(theta, 20.0, d, eps=2.0**-7) == pytest.approx([0.05 * 20 / 2])
    assert steps_of(theta, 20.0, d, theta_eps=2.0**-7) == pytest.approx([0.05 * 20 / 2])


def test_steps_are_no_longer_than_theta_and_no_shorter_than_its_round_off():
    d = np.array([1.0, 0.0, 0.0, 0.0])
    assert steps_of(np.full(4, 3.0), 1e9, d) == pytest.approx([FARTHEST * 3])
    assert steps_of(np.zeros(4), 1e9, d) == pytest.approx([FARTHEST])
    assert steps_of(np.full(4, 3.0), 1e-9, d) == pytest.approx([EPS**0.5 * 3])
    coarse = steps_of(np.full(4, 3.0), 1e-9, d, theta_eps=2.0**-7)
    assert coarse == pytest.approx([4 * 2.0**-7 * 6])


def test_nothing_is_alike_nor_a_change_of_nothing():
    a, b = np.array([3.0, 4.0]), np.array([4.0, 3.0])
    assert cosine(a, b) == pytest.approx(24 / 25) and cosine(
        1e-200 * a, 1e200 * a
    ) == pytest.approx(1)
    assert change(b, a) == pytest.approx(2**0.5 / 5)
    for x, y in ((a, 0 * a), (0 * a, a)):
        assert math.isnan(cosine(x, y))
    assert math.isnan(change(a, 0 * a)) and change(0 * a, a) == 1
