"""`tune` goes along the gradient of the closed form, and returns the best of the third split."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import EPS

import metacontrast as mc
from metacontrast._tune._losses import Task, UserLoss

rng = np.random.default_rng(0)
X, Y = rng.normal(size=(24, 3)), rng.normal(size=24)
TRAIN, VALID, STOP = ((X[at], Y[at]) for at in (slice(8), slice(8, 16), slice(16, 24)))
RATE, STEPS = 0.1, 4


def train_loss(w, theta, batch):
    return valid_loss(w, theta, batch) + jnp.exp(theta) @ w**2


def valid_loss(w, theta, batch):
    return jnp.mean((batch[0] @ w - batch[1]) ** 2)


def ridge(theta, data):
    x, y = data
    return jnp.linalg.solve(x.T @ x / len(y) + jnp.diag(jnp.exp(theta)), x.T @ y / len(y))


def by_closed_form(steps, rate):
    """Theta after each step of descent on the validation loss of the ridge, and its stop loss."""
    meta = lambda theta: valid_loss(ridge(theta, TRAIN), theta, VALID)
    thetas = [jnp.zeros(3)]
    for _ in range(steps):
        thetas.append(thetas[-1] - rate * jax.grad(meta)(thetas[-1]))
    return thetas, [valid_loss(ridge(theta, TRAIN), theta, STOP) for theta in thetas]


@cache
def at_rest():
    return mc.tune(
        train_loss, valid_loss, jnp.zeros(3), jnp.zeros(3), TRAIN, VALID, STOP,
        optimizer=optax.sgd(0.1), steps=400, meta_steps=4, meta_optimizer=optax.sgd(8.0),
        look_every=1, progress=False,
    )  # fmt: skip


def test_the_first_meta_step_goes_along_the_gradient_of_the_closed_form():
    tuned = at_rest()
    assert isinstance(tuned.estimator, mc.Contrastive) and "has come to rest" in tuned.why
    thetas, _ = by_closed_form(4, 8.0)
    # The linear, symmetric contrast is exact for quadratics but for the differences of gradients
    # that conjugate gradient takes, each to the root of the precision.
    np.testing.assert_allclose(tuned.trained.theta, thetas[-1], rtol=0, atol=1e3 * EPS**0.5)


def test_what_is_returned_is_the_best_of_the_third_split():
    tuned = at_rest()
    thetas, losses = by_closed_form(4, 8.0)
    best = int(np.argmin(losses))
    assert best > 0  # it is not where it started
    assert (tuned.step, [row["step"] for row in tuned.history]) == (best, [0, 1, 2, 3, 4])
    found = [row["stop_loss"] for row in tuned.history]
    np.testing.assert_allclose(found, losses, rtol=1e3 * EPS**0.5)
    assert tuned.stop_loss == min(found)
    np.testing.assert_allclose(tuned.theta, thetas[best], rtol=0, atol=1e3 * EPS**0.5)
    np.testing.assert_allclose(tuned.params, ridge(thetas[best], TRAIN), atol=1e3 * EPS**0.5)
    assert f"best after {best} of 4 meta-steps" in str(tuned)


def with_state(w, theta, batch, seen):
    return valid_loss(w, theta, batch), 0.5 * seen + w


def few_steps(theta):
    """Descent at the learned rate, and the state that it leaves, by hand."""
    w, seen = jnp.ones(3), jnp.zeros(3)
    for _ in range(STEPS):
        slope = jax.grad(valid_loss)(w, theta, TRAIN)
        w, seen = w - jnp.exp(theta["log_rate"]) * slope, 0.5 * seen + w
    return w, seen


@pytest.mark.filterwarnings("ignore:Of 1 tasks:RuntimeWarning")  # errors grow along a saddle
def test_a_place_of_rest_that_is_no_minimum_is_tuned_by_trajectory(monkeypatch):
    monkeypatch.delenv("METACONTRAST_DIAGNOSE")
    # The first weight stays where the loss curves downwards; the second follows theta.
    saddle = lambda w, theta, batch: (w[0] ** 2 - 1) ** 2 + (w[1] - theta) ** 2 + 0 * batch.sum()
    tuned = mc.tune(
        saddle, lambda w, theta, batch: (w[0] - batch.mean()) ** 2 + (w[1] - 1) ** 2 + theta**2,
        jnp.zeros(2), jnp.array(0.3), np.ones(2), np.ones(2), np.ones(2),
        optimizer=optax.sgd(0.2), steps=60, meta_steps=1, progress=False,
    )  # fmt: skip
    assert isinstance(tuned.estimator, mc.Trajectory)
    assert "unbounded" in tuned.why and "unbounded" in tuned.diagnosis.flags


def test_what_does_not_come_to_rest_is_tuned_by_trajectory():
    """Its rate, by a state that losses see; the third split, the second, is lost on by ascent."""
    theta = {"log_rate": jnp.log(RATE)}
    outer = lambda w, theta, batch, seen: valid_loss(w, theta, batch) + 0.1 * jnp.sum(seen * w)
    tuned = mc.tune(
        with_state, outer, jnp.ones(3), theta, TRAIN, VALID, VALID,
        state=jnp.zeros(3), optimizer=lambda theta: optax.sgd(jnp.exp(theta["log_rate"])),
        steps=STEPS, meta_steps=50, meta_optimizer=optax.sgd(-0.1), look_every=1, patience=2,
        progress=False,
    )  # fmt: skip
    assert isinstance(tuned.estimator, mc.Trajectory) and "not come to rest" in tuned.why
    meta = lambda theta: outer(*(lambda w, s: (w, theta, VALID, s))(*few_steps(theta)))
    at = theta
    for _ in range(2):
        at = jax.tree.map(lambda t, g: t + 0.1 * g, at, jax.grad(meta)(at))
    assert (tuned.step, len(tuned.history)) == (0, 3)  # it ended at the second look without a gain
    np.testing.assert_allclose(tuned.trained.theta["log_rate"], at["log_rate"], rtol=1e-6)
    for found, expected in zip((tuned.params, tuned.state), few_steps(theta), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e2 * EPS)


def test_steps_see_distinct_rows_and_keys_of_their_own():
    loss = lambda params, theta, batch, key: jnp.sum(params)
    task = Task(*(UserLoss(n, loss, False) for n in "ab"), 0.0, None, *(TRAIN,) * 3, 5)
    draws = [task._sample(task.draw(jax.random.key(0)), jax.random.key(i)) for i in range(40)]
    rows = np.array([draw.rows for draw in draws])
    assert rows.shape == (40, 5) and all(len({*row}) == 5 for row in rows)
    assert {*rows.ravel()} == {*range(8)}
    assert len({tuple(jax.random.key_data(draw.key).tolist()) for draw in draws}) == 40
    assert task.train_loss.takes_key and not UserLoss("c", valid_loss, False).takes_key


@pytest.mark.parametrize(
    ("changed", "error", "said"),
    [
        ({"train_loss": lambda w, theta: 0.0}, TypeError, r"train_loss: is called with \(params, "),
        ({"train_loss": lambda w, t, b: b[0] @ w}, ValueError, r"train_loss: .* not float64\[8"),
        ({"valid_loss": lambda w, t, b: b[9]}, TypeError, "valid_loss: .*IndexError"),
        ({"train": (X, Y[1:])}, ValueError, "train: all of its arrays must have one row"),
        ({"valid": (X[:1], Y[:1]), "stop": None}, ValueError, "valid: has one row"),
        ({"batch_size": 9}, ValueError, "batch_size: 9 is more than the 8 rows"),
        ({"theta": jnp.zeros(2)}, TypeError, r"train_loss: .* take `theta` .* of `train` "),
        ({"stop": (np.full((8, 3), np.nan), Y[:8])}, ValueError, "stop: has NaN"),
        ({"steps": 0}, ValueError, "steps: must be a whole number of at least 1"),
        ({"theta": {"a": "b"}}, ValueError, "theta: leaf"),
    ],
)
def test_bad_input_is_named(changed, error, said):
    given = {
        "train_loss": train_loss, "valid_loss": valid_loss, "params": jnp.zeros(3),
        "theta": jnp.zeros(3), "train": TRAIN, "valid": VALID, "stop": STOP,
        "optimizer": optax.sgd(0.1), "steps": 2,
    }  # fmt: skip
    with pytest.raises(error, match=f"^{said}"):
        mc.tune(**given | changed)
