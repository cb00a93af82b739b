"""Learning that diverges: which task does, whatever its units, and what then ends the run."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from springs import STEPS, THETA, by_hand, close, drawn, exact_gradient, train
from toy_run import lines, spring_or_steep

import metacontrast as mc
from metacontrast.train import DivergedError
from metacontrast.train._checkpoints import Checkpoints
from metacontrast.train._divergence import is_far_above


def test_tasks_that_diverge_are_left_out_of_the_mean_and_counted():
    kinds = [[float(x.steepness) for x in drawn(t, spring_or_steep)[0]] for t in range(STEPS)]
    assert {x for kind in kinds for x in kind} == {1.0, 30.0, 1e200}  # of both kinds
    steep = [sum(x != 1 for x in kind) for kind in kinds]
    trained = train(sample_task=spring_or_steep)
    close(trained.theta, by_hand(partial(exact_gradient, sample_task=spring_or_steep))[-1])
    assert [x["diverged"] for x in trained.metrics] == list(np.reshape(steep, (3, 2)).sum(axis=1))
    assert trained.diverged == sum(steep)


def test_a_gradient_that_is_not_finite_counts_though_the_loss_is():
    class Broken(mc.Estimator):
        def value_and_grad(self, loss, solver, starts=None):
            grad = jnp.where(loss.z.centre > 0, jnp.nan, 1.0)
            return mc.MetaGradient(jnp.zeros(()), {"a": jnp.ones(2), "b": grad})

    trained = train(
        theta={"a": jnp.zeros(2), "b": THETA}, problem=two_leaves, estimator=Broken(),
        optimizer=optax.sgd(0.1),
    )  # fmt: skip
    assert trained.diverged == sum(x.centre > 0 for t in range(STEPS) for x in drawn(t)[0]) > 0
    close(trained.theta["b"], THETA - STEPS * 0.1)
    close(trained.theta["a"], -STEPS * 0.1 * np.ones(2))


two_leaves = mc.Problem(
    init=lambda theta, task: theta["b"],
    inner=lambda phi, theta, task: phi**2,
    outer=lambda phi, theta, task: phi**2,
)


# Units


@pytest.mark.parametrize(
    ("first", "last", "is_diverged"),
    [
        (2.0, 21.0, False),
        (2.0, 23.0, True),
        (-2.0, -3.0, False),
        (-2.0, 17.0, False),
        (-2.0, 19.0, True),
        (0.0, 1e-6, False),
        (0.0, 1e-4, True),
        (1.0, np.nan, True),
        (np.nan, 1.0, True),
        (1e-12, 1e-4, True),
    ],
)
def test_a_loss_ten_times_its_size_above_where_it_started_has_diverged(first, last, is_diverged):
    assert bool(is_far_above(jnp.array(first), jnp.array(last))) is is_diverged


@pytest.mark.parametrize("unit", [2.0**-40, 1.0, 2.0**40])
@pytest.mark.parametrize(
    ("first", "last", "scale", "is_diverged"),
    [(1e-12, 1e-5, 1e-3, False), (1e-12, 1.0, 1e-3, True), (0.0, 1e-9, 0.0, True)],
)
def test_with_a_scale_of_its_own_a_loss_may_have_any_units(unit, first, last, scale, is_diverged):
    assert bool(is_far_above(unit * first, unit * last, unit * scale)) is is_diverged


def springs_at(ends, unit=1.0, theta=0.5, **changes):
    """A run whose init solves every task, with a loss in these units; its learner ends there."""
    problem = mc.Problem(
        init=lambda theta, task: theta,
        inner=lambda phi, theta, task: unit * (phi - theta) ** 2,
        outer=lambda phi, theta, task: (phi - theta + 1) ** 2,
    )
    arguments = dict(
        problem=problem, solver=lambda loss, phi: phi + ends, estimator=mc.FirstOrder(),
        theta=theta, optimizer=optax.sgd(0.0),
    )  # fmt: skip
    return train(**(arguments | changes))


@pytest.mark.parametrize("theta", [0.5, 0.0])  # at 0 the task is solved too
@pytest.mark.parametrize("unit", [1e-12, 1.0, 1e12])
def test_a_task_that_its_init_solves_has_diverged_if_it_ends_far_away(unit, theta):
    assert springs_at(1e-3, unit, theta).diverged == 0
    with pytest.raises(DivergedError, match="meta-step 1: every task"):
        springs_at(10.0, unit, theta)


def test_a_loss_that_is_not_finite_at_0_is_judged_by_where_it_starts():
    problem = mc.Problem(
        init=lambda theta, task: theta,
        inner=lambda phi, theta, task: -jnp.log(phi) + phi,
        outer=lambda phi, theta, task: phi**2,
    )
    assert springs_at(1.0, problem=problem).diverged == 0
    with pytest.raises(DivergedError, match="meta-step 1: every task"):
        springs_at(100.0, problem=problem)


# One long task


def long_task(rate, **changes):
    problem = mc.Problem(
        init=lambda theta, task: jnp.ones(2),
        inner=lambda phi, theta, task: jnp.sum((phi - theta) ** 2),
        outer=lambda phi, theta, task: jnp.sum((phi - 1.0) ** 2),
    )
    solver = mc.descend(optax.sgd(rate), 1)
    arguments = dict(
        problem=problem, solver=solver, estimator=mc.Contrastive(0.1), tasks=1, steps=30,
        optimizer=optax.sgd(0.0), warm_start="free", on_collapse="ignore", on_flag="warn",
    )  # fmt: skip
    return train(**(arguments | changes))


@pytest.mark.filterwarnings("ignore:Of .* tasks of")  # a phase of a step has not converged
def test_the_phases_of_a_long_task_diverge_while_they_are_finite():
    # Its distance grows by a tenth with each step, so that the loss is 1.1^24 = 9.8 times that of
    # the start in meta-step 11, for the phase has gone a step before the first, and 66 in 21.
    with pytest.raises(DivergedError, match="meta-step 21: every task"):
        long_task(1.05)
    assert long_task(0.9).diverged == 0


# What freezes an optimiser


def test_tasks_that_run_away_behind_features_do_not_freeze_adam():
    """One in four is left at a loss of 1e6 times its own, or more."""
    run = partial(
        train, estimator=mc.Contrastive(0.01), optimizer=optax.adam(0.1), sample_task=runs_away
    )
    plain, behind = run(), run(features=lambda theta, task: (theta, task))
    close(behind.theta, plain.theta)
    assert plain.diverged == behind.diverged > 0
    # Adam has gone its way, of which each step is nearly its rate.
    assert abs(behind.theta - THETA) > 0.5 * 0.1 * STEPS


def runs_away(key):
    """A spring that is sometimes so steep that one step throws the learner 1e9 times as far."""
    task = spring_or_steep(key)
    return task._replace(steepness=jnp.minimum(task.steepness, 1e9))


class Given(mc.Estimator):
    """Its gradient is `size` where the centre of the task is below -0.5, or else 1."""

    def __init__(self, size):
        self.size = size

    def value_and_grad(self, loss, solver, starts=None):
        gradient = jnp.where(loss.z.centre < -0.5, self.size, 1.0)
        return mc.MetaGradient(jnp.ones(()), gradient + 0 * loss.theta, aux={})


def runaway(size, **changes):
    """Its size is that of the tasks from the second meta-step on, before that it is 1."""
    estimator = lambda t: Given(jnp.where(t > 0, size, 1.0))
    return train(**(dict(estimator=estimator, optimizer=optax.adam(0.1)) | changes))


def test_a_gradient_astronomically_larger_than_usual_does_not_freeze_adam():
    far = sum(float(x.centre) < -0.5 for t in range(1, STEPS) for x in drawn(t)[0])
    trained = runaway(1e18)
    assert trained.diverged == far > 0
    # Adam's steps along a constant slope are its rate.
    close(trained.theta, THETA - 0.1 * STEPS / (1 + 1e-8))
    # One that is only large counts.
    assert runaway(1e6).diverged == 0


def test_a_state_of_the_optimizer_that_is_not_finite_stops_the_run():
    with pytest.raises(DivergedError, match=r"meta-step 1: the state of `optimizer` is not finite"):
        train(estimator=Given(1e200), optimizer=optax.adam(0.1))


# What ends a run

# The ninth meta-step throws theta so far that the loss of every task overflows.
far = partial(
    train, optimizer=optax.sgd(lambda t: jnp.where(t < 8, 0.1, 1e200)), steps=20, log_every=4,
    steps_per_dispatch=4,
)  # fmt: skip


def test_when_all_tasks_diverge_the_run_stops_and_keeps_its_checkpoints(tmp_path):
    with pytest.raises(DivergedError, match=r"meta-step 10: every task.*inner.*beta"):
        far(out=tmp_path)
    assert [line["step"] for line in lines(tmp_path)] == [4, 8]
    assert Checkpoints(tmp_path / "checkpoints").steps() == [4, 8]
    with pytest.raises(DivergedError, match="meta-step 10:"):
        far(out=tmp_path, resume=True)


def test_an_update_that_is_not_finite_names_the_outer_optimiser():
    with pytest.raises(DivergedError, match=r"meta-step 9: theta is not finite.*`optimizer`"):
        far(theta=1e150)
