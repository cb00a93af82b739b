"""The meta-training loop: what a meta-step does, what it leaves out, and what it refuses."""

import re
import sys
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import forbidden
from springs import (
    STEPS,
    THETA,
    base,
    by_hand,
    centres,
    close,
    drawn,
    exact_gradient,
    exact_loss,
    steep_run,
    train,
)
from toy_run import assert_same, noisy, solver, spring_or_steep

import metacontrast as mc

# What a meta-step does


def test_each_step_follows_the_mean_of_the_gradients_of_its_tasks():
    close(base().theta, by_hand()[-1])


@cache
def gradients_by_hand(theta, t):
    rule = mc.meta_gradient(noisy, solver, mc.Contrastive(0.1, order=2))
    pairs = zip(*drawn(t, spring_or_steep), strict=True)
    return [rule(jnp.array(theta), *pair) for pair in pairs if pair[0].steepness == 1]


def test_each_task_is_learned_with_a_key_of_its_own():
    gradient = lambda theta, t: np.mean([x.by_theta for x in gradients_by_hand(theta, t)])
    close(steep_run(None).theta, by_hand(gradient, steps=2)[-1])


def test_metrics_are_means_over_tasks_and_steps():
    thetas = [THETA, *by_hand()]
    losses = [exact_loss(thetas[t], centres(t)) for t in range(STEPS)]
    metrics = base().metrics
    assert [line["step"] for line in metrics] == [2, 4, 6]
    close([line["meta_loss"] for line in metrics], np.reshape(losses, (3, 2)).mean(axis=1))
    assert all(line["seconds"] > 0 and line["diverged"] == 0 for line in metrics)


def test_a_diagnostic_that_is_a_list_enters_the_metrics_as_its_mean():
    # One exact step of rate 1/4 from phi_0 goes b/2 (1 - phi_0): twice as far for the nudge 2b.
    far = [0.1 * (1 + 2) / 2 / 2 * np.sqrt(x.value) for x in gradients_by_hand(THETA, 0)]
    close(steep_run(None).metrics[0]["distance"], np.mean(far))


def test_the_steps_of_a_dispatch_do_not_change_the_result():
    one, other = (train(steps=5, log_every=4, steps_per_dispatch=n) for n in (1, 2))
    close(other.theta, one.theta)
    close([x["meta_loss"] for x in other.metrics], [x["meta_loss"] for x in one.metrics])
    assert [x["step"] for x in other.metrics] == [4, 5]


@pytest.mark.parametrize("task_batch_size", [1, 4])
def test_tasks_reduced_as_they_come_give_the_same_means(task_batch_size):
    one, other = steep_run(None), steep_run(task_batch_size)
    assert one.diverged == other.diverged > 0
    close(other.theta, one.theta)
    for a, b in zip(one.metrics, other.metrics, strict=True):
        assert a.keys() == b.keys() and a["diverged"] == b["diverged"]
        close(*([x["meta_loss"], x["inner"], x["distance"]] for x in (b, a)))


def test_arguments_survive_and_python_numbers_are_as_good():
    theta = jnp.array(THETA)
    assert_same(train(theta=theta).theta, base().theta)
    assert theta == THETA


def test_an_optimizer_may_ask_for_the_loss_and_search_a_line():
    # Of the third meta-step a full step would lower the loss too little.
    search = optax.chain(
        optax.sgd(lambda t: jnp.where(t == 2, 6.0, 1.0)),
        optax.scale_by_backtracking_linesearch(5, store_grad=True),
    )

    @jax.jit
    def step(theta, state, centres):
        value, grad = jax.value_and_grad(exact_loss)(theta, centres)
        loss = partial(exact_loss, centres=centres)
        updates, state = search.update(grad, state, theta, value=value, grad=grad, value_fn=loss)
        return optax.apply_updates(theta, updates), state

    theta, rates = jnp.array(THETA), []
    state = search.init(theta)
    for t in range(3):
        theta, state = step(theta, state, centres(t))
        rates.append(float(state[-1].learning_rate))
    assert rates[0] == 1 > rates[2]
    close(train(optimizer=search, steps=3, log_every=1).theta, theta)


def test_an_optimizer_is_given_the_loss_its_gradient_and_both_elsewhere():
    def update(updates, state, params, *, value, grad, value_fn, **others):
        there, slope = jax.value_and_grad(value_fn)(params - grad / 2)
        return -0.1 * slope * there / value, state

    ahead = optax.GradientTransformationExtraArgs(lambda params: (), update)
    theta = THETA
    for t in range(3):
        there = theta - exact_gradient(theta, t) / 2
        ratio = exact_loss(there, centres(t)) / exact_loss(theta, centres(t))
        theta = theta - 0.1 * exact_gradient(there, t) * ratio
    close(train(optimizer=ahead, steps=3, log_every=1).theta, theta)


# Validation and the average


def test_the_average_is_of_thetas_and_is_what_is_validated():
    validated = []

    def validate(theta):
        validated.append(theta)
        return {"loss": 0.0}

    trained = train(average_from=3, validate=validate, log_every=1)
    thetas = by_hand()
    expected = [THETA, *thetas[:2], *(thetas[2:t].mean() for t in range(3, 7))]
    close(validated, expected)
    close(trained.theta, expected[-1])


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("losses", "step"),
    [
        ([4.0, NAN, 2.0, 1.0, INF, 1.0, 3.0], 3),
        ([1.5, -INF, NAN, 1.9, 2.0, 1.9, 2.0], 0),
        ([NAN, NAN, INF, -INF, NAN, NAN, 1e300], 6),
        ([INF, 5.0, 6.0, 6.0, 6.0, 6.0, -INF], 1),
    ],
)
def test_best_is_the_theta_of_the_lowest_finite_validation_loss(losses, step):
    """Where it started is the first that is validated."""
    said, seen = iter(losses), []

    def validate(theta):
        seen.append(float(theta))
        return {"loss": next(said)}

    trained = train(log_every=1, validate=validate)
    finite = [x if np.isfinite(x) else None for x in losses[1:]]
    assert [x["valid_loss"] for x in trained.metrics] == finite
    assert (trained.best_step, trained.best_loss) == (step, losses[step])
    assert seen[0] == THETA and len(set(seen)) == 7
    assert trained.best == seen[step]


def test_best_is_the_last_theta_if_nothing_speaks_for_another():
    with pytest.warns(RuntimeWarning, match=r"^validate: no loss was finite") as said:
        never = train(validate=lambda theta: {"loss": NAN})
    assert said[0].filename.endswith("springs.py")
    for trained in (base(), never):
        assert_same(trained.best, trained.theta)
        assert (trained.best_step, trained.best_loss) == (None, None)
        assert trained.phi is None


def test_validation_without_a_loss_is_refused():
    with pytest.raises(ValueError, match=r"validate:.*'loss'"):
        train(validate=lambda theta: {"accuracy": 1.0})


# Bad input, before compute


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(steps=0), "^steps"),
        (dict(task_batch_size=0), "^task_batch_size"),
        (dict(task_batch_size=3), "^task_batch_size: must divide tasks=16, which 3 does not"),
        (dict(tasks=0), "^tasks"),
        (dict(log_every=0), "^log_every"),
        (dict(steps_per_dispatch=0), "^steps_per_dispatch"),
        (dict(steps=1.5), "^steps"),
        (
            dict(log_every=10, steps_per_dispatch=4),
            "^log_every: must be a multiple of steps_per_dispatch=4, not 10; try log_every=12",
        ),
        (dict(seed=jax.random.key(0)), "^seed"),
        (dict(seed=1.0), "^seed"),
        (dict(seed=-1), "^seed: must be a whole number from 0 to 4294967295"),
        (dict(seed=2**40), "^seed: must be a whole number .* not 1099511627776"),
        (dict(average_from=0), "^average_from"),
        (dict(average_from=7), "^average_from: .* 1 to 6, not 7"),
        (dict(config={"steps": 500}), "^config: its 'steps' is 500.*steps=6"),
        (dict(config={"net": jnp.tanh}), "^config: holds something that JSON cannot"),
        (dict(config={"beta": float("nan")}), "^config"),
        (dict(theta=jnp.array(1)), "^theta"),
        (dict(theta=jnp.array(jnp.nan)), r"^problem\.inner: the loss is nan"),
    ],
)
def test_bad_input_is_refused_before_compute(tmp_path, changes, message):
    with pytest.raises((TypeError, ValueError), match=message):
        train(**(dict(solver=forbidden, out=tmp_path / "run") | changes))
    assert not (tmp_path / "run").exists()


def test_the_last_seed_is_one_of_its_own():
    run = partial(train, steps=1, log_every=1, optimizer=optax.sgd(0.1))
    thetas = [run(seed=seed).theta for seed in (2**32 - 1, 0, 2**31 - 1)]
    assert thetas[0] not in thetas[1:]


def test_what_is_no_estimator_is_refused(tmp_path):
    with pytest.raises(TypeError, match=r"^estimator: .*a function from the number"):
        train(solver=forbidden, estimator=lambda t: 0.1, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_bar_shows_metrics_on_stderr_and_can_be_turned_off(capsys, monkeypatch):
    score = lambda theta: {"loss": 0.25}
    with monkeypatch.context() as terminal:
        terminal.setattr(sys.stderr, "isatty", lambda: True)
        train(progress=True, sample_task=spring_or_steep, validate=score)
    shown = capsys.readouterr()
    assert shown.out == ""
    for text in ("valid 0.25", "meta_loss=", "6/6", "tasks diverged and were left out"):
        assert text in shown.err
    # Elsewhere a plain line a look.
    train(progress=True, sample_task=spring_or_steep, validate=score)
    *looks, last = capsys.readouterr().err.splitlines()
    words = r"meta-step {} of 6: meta_loss [\d.]+, valid_loss 0.25, diverged \d+, flagged \d+"
    assert len(looks) == 3 and "were left out" in last
    for step, said in zip((2, 4, 6), looks, strict=True):
        assert re.fullmatch(words.format(step), said)
    train(sample_task=spring_or_steep, steps=1, log_every=1)
    assert capsys.readouterr() == ("", "")
