"""A meta-training that loses what it has learned: seen within three looks, and taken back."""

import math
from functools import cache, partial

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy_run
from springs import THETA, close, exact_gradient, train
from toy_run import assert_same, lines

import metacontrast as mc
from metacontrast.train import CollapsedError, read_metrics
from metacontrast.train._collapse import FEW, MOST_ROLLBACKS, PATIENCE, Looks

# What is far above the best


def collapses_at(losses, fresh=False):
    """After how many looks it is seen."""
    looks = Looks(fresh)
    for i, loss in enumerate(losses):
        looks.add(loss)
        if looks.is_collapse:
            return i + 1
    return None


DOWN = [3.0, 2.5, 1.9, 1.2, 0.8, 0.55, 0.42, 0.33, 0.3, 0.26, 0.24]  # a cross-entropy


@pytest.mark.parametrize("unit", [2.0**-40, 1.0, 2.0**40])
@pytest.mark.parametrize(
    ("then", "seen"),
    [
        ([11.8, 5.0, 6.0, 4.0], 3),
        ([None, None, None], 3),  # not finite
        ([5.0, None, 2.0], 3),
        ([5.0, 5.0, 0.3, 5.0, 5.0, 0.3], None),  # it came back
        ([0.5, 0.7, 0.5, 0.6, 0.7], None),  # no half of what was gained
        ([0.5, 5.0, 5.0, 5.0], 4),
    ],
)
@pytest.mark.parametrize("fresh", [False, True])
def test_three_looks_in_a_row_far_above_the_best_are_a_collapse(unit, then, seen, fresh):
    losses = [None if x is None else unit * x for x in DOWN + then]
    assert collapses_at(losses, fresh) == (seen and len(DOWN) + seen)


@pytest.mark.parametrize(
    ("losses", "seen"),
    [
        ([1.0, 12.0, 80.0, 700.0], 4),  # it never learned anything
        ([1.0, 5.0, 9.0, 9.0, 9.0], None),
        ([1.0, None, None, None], 4),
        ([None, None, None, None, None], None),  # from what?
        ([1e18, 2.0, 1.5, 1.2, 1.1, 100.0, 100.0, 100.0], 8),  # a start out of all proportion
        ([-3.0, -4.0, -4.5, -5.0, 90.0, 90.0, 90.0], 7),
        (3 * [1.0] + 9 * [1e-12] + 4 * [1e-2], None),  # of what was gained little
    ],
)
def test_collapses_of_validation_losses(losses, seen):
    assert collapses_at(losses) == seen


def test_of_fresh_tasks_the_first_losses_are_not_compared():
    before = 5 * [1.0, 1.1]
    assert len(before) == FEW
    assert collapses_at(before + 3 * [80.0], fresh=True) == FEW + PATIENCE
    assert collapses_at(before[1:] + 9 * [80.0], fresh=True) is None
    assert collapses_at([1.0] + 9 * [80.0], fresh=True) is None


@pytest.mark.parametrize("trend", ["none", "down"])
@pytest.mark.parametrize("noise", ["normal", "lognormal", "chi2"])
def test_noise_is_no_collapse(noise, trend):
    """Nor of losses that vary by a factor of e, or that are squares of a single error."""
    draw = {
        "normal": lambda rng: 1 + 0.3 * rng.normal(size=100),
        "lognormal": lambda rng: rng.lognormal(size=100),
        "chi2": lambda rng: rng.chisquare(1, size=100),
    }[noise]
    scale = 1.0 if trend == "none" else np.geomspace(1, 1e-2, 100)
    for seed in range(100):
        losses = scale * draw(np.random.default_rng(seed))
        assert collapses_at(losses.tolist(), fresh=True) is None, seed


# What a run does

# The loss is that of phi = (centre + theta) / 2, of curvature 1/2: with a rate above 4 theta is
# thrown further away by each meta-step, and with 2 it is at the minimum after one.
VALID = np.random.default_rng(0).normal(size=50)


def valid_loss(theta):
    return {"loss": float(np.mean(((VALID + np.asarray(theta)) / 2 - 1) ** 2))}


def outer(rate):
    return optax.sgd(optax.cosine_decay_schedule(rate, 60, 0.01))


steep = partial(train, tasks=64, steps=60, log_every=4, steps_per_dispatch=4, validate=valid_loss)


def test_a_rate_that_is_too_high_is_seen_within_three_looks(tmp_path):
    with pytest.raises(
        CollapsedError, match=r"^meta-step 12: .* of meta-step 0 at 3 looks"
    ) as said:
        steep(optimizer=outer(7.0), out=tmp_path)
    assert (float(said.value.best), said.value.best_step) == (THETA, 0)
    assert [line["step"] for line in lines(tmp_path)] == [4, 8]
    # Resumed it sees the same; told so it goes on.
    with pytest.raises(CollapsedError, match=r"^meta-step 12:") as again:
        steep(optimizer=outer(7.0), out=tmp_path, resume=True)
    assert str(again.value) == str(said.value)
    trained = steep(optimizer=outer(7.0), out=tmp_path, resume=True, on_collapse="ignore")
    assert trained.metrics[-1]["step"] == 60 and trained.rollbacks == 0
    assert_same(trained.theta, steep(optimizer=outer(7.0), on_collapse="ignore").theta)


@pytest.mark.parametrize(("rate", "rollbacks"), [(2.0, 0), (7.0, 1), (13.0, 2)])
def test_rolled_back_it_ends_where_the_right_rate_does(rate, rollbacks):
    right = valid_loss(steep(optimizer=outer(2.0)).theta)["loss"]
    trained = steep(optimizer=outer(rate), on_collapse="rollback")
    assert trained.rollbacks == rollbacks
    found, begun = valid_loss(trained.theta)["loss"], valid_loss(THETA)["loss"]
    assert abs(found - right) < 0.05 * right < 0.05 * begun / 3
    # Whoever may go back and need not is where he would be anyway.
    if not rollbacks:
        assert_same(trained.theta, steep(optimizer=outer(rate)).theta)


def test_it_is_not_rolled_back_for_ever():
    wild = optax.sgd(1000.0)
    with pytest.raises(
        CollapsedError, match=rf"rolled back {MOST_ROLLBACKS} times in vain"
    ) as said:
        steep(optimizer=wild, on_collapse="rollback", steps=400)
    assert "'rollback'" not in str(said.value)


def test_the_mean_meta_loss_is_looked_at_where_nothing_is_validated():
    """With a rate that comes to be too high after 40 meta-steps, ten looks."""
    late = optax.sgd(lambda t: jnp.where(t < 40, 0.5, 20.0))
    run = partial(steep, validate=None, optimizer=late)
    with pytest.raises(CollapsedError, match=r"^meta-step 52: .* of meta-step \d+ at") as said:
        run()
    assert said.value.best_step <= 40
    assert abs(float(said.value.best) - 2) < 0.5
    trained = run(on_collapse="rollback", steps=56)
    assert [line["rollbacks"] for line in trained.metrics] == [0] * 12 + [1, 1]


LOOKS = [4.0, 3.0, 2.0, 99.0, 99.0, 99.0, 1.9, 99.0, None, 99.0, 2.5]  # at the start and ten blocks
CAUGHT = (5, 9)  # after which the run is at its looks 2 and 6


def scripted(out, fails_at=None):
    """Validation that says `LOOKS`, however often the run was stopped in between."""

    def validate(theta):
        i = len(read_metrics(out))
        if i == fails_at:
            raise RuntimeError("power cut")
        i += validate.calls > 0 or i > 0  # the first call of all is that of the start
        validate.calls += 1
        return {"loss": math.nan if LOOKS[i] is None else LOOKS[i]}

    validate.calls = 0
    return validate


@cache
def thetas_by_hand():
    """After each block of two steps: momentum, with its trace, count and rate taken back."""
    now = best = (THETA, 0.0, 0, 1.0)
    thetas = []
    for block in range(10):
        theta, trace, count, factor = now
        for t in (2 * block, 2 * block + 1):
            trace = np.clip(exact_gradient(theta, t), -0.7, 0.7) + 0.9 * trace
            theta, count = theta - factor * 0.3 / (1 + count) * trace, count + 1
        now = (theta, trace, count, factor)
        thetas.append(theta)
        if block + 1 in (1, 2, 6):
            best = now
        if block + 1 in CAUGHT:
            now = (*best[:3], factor / 2)
            thetas[-1] = best[0]
    return thetas


def test_a_rollback_takes_back_all_but_the_tasks_and_halves_the_updates(tmp_path):
    trained = train(
        steps=20, log_every=2, out=tmp_path, validate=scripted(tmp_path), on_collapse="rollback"
    )
    close(trained.theta, thetas_by_hand()[-1])
    assert [line["rollbacks"] for line in trained.metrics] == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]
    assert (trained.best_step, trained.best_loss, trained.rollbacks) == (12, 1.9, 2)
    close(trained.best, thetas_by_hand()[5])


def everything(out, **changes):
    """With an average, a key that changes, clipping, Adam and tasks that diverge."""
    return toy_run.toy_run(out, steps=100, on_collapse="rollback", **changes)


@pytest.mark.thorough
def test_no_interruption_changes_a_run_that_is_rolled_back(tmp_path):
    whole = everything(tmp_path / "whole", validate=scripted(tmp_path / "whole"))
    assert (whole.rollbacks, whole.best_step) == (2, 60)
    out = tmp_path / "part"
    for fails_at in (1, 4, 5, 6, 9):  # before and after it goes back, and between
        with pytest.raises(RuntimeError, match="power cut"):
            everything(out, validate=scripted(out, fails_at), resume=True)
    again = everything(out, validate=scripted(out), resume=True)
    toy_run.assert_same_run(again, out, whole, tmp_path / "whole")
    assert (again.rollbacks, again.best_step) == (2, 60)
    with pytest.raises(ValueError, match=r"on_collapse is 'rollback' there and 'absent' now"):
        toy_run.toy_run(out, steps=100, resume=True)


def test_one_long_task_goes_back_with_its_phases(tmp_path):
    problem = mc.Problem(
        init=lambda theta, task: jnp.zeros(()),
        inner=lambda phi, theta, task: (phi - theta) ** 2,
        outer=lambda phi, theta, task: (phi - 1.0) ** 2,
    )
    run = partial(
        train, problem=problem, tasks=1, warm_start="phases", steps=20, on_collapse="rollback",
        estimator=mc.Contrastive(0.1), solver=mc.descend(optax.sgd(0.1), 1),
        optimizer=optax.sgd(0.0),
    )  # fmt: skip
    phis = []

    def validate(theta, phi):
        phis.append(float(phi))
        return says(theta)

    says = scripted(tmp_path)
    trained = run(out=tmp_path, validate=validate, log_every=2)
    assert trained.rollbacks == 2
    # Each step takes a fifth of the way to theta; before the first meta-step there was one.
    steps = np.array([0, 2, 4, 6, 8, 10, 6, 8, 10, 12, 8])  # back to 4 after 10, to 6 after 12
    close(phis, THETA * (1 - 0.8 ** (steps + 1)))


def test_what_is_no_choice_is_refused():
    message = r"^on_collapse: must be 'stop', 'rollback' or 'ignore', not 'warn'"
    with pytest.raises(ValueError, match=message):
        train(on_collapse="warn")
