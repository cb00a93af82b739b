"""Bad input is named before any compute is spent on it."""

import jax
import jax.numpy as jnp
import optax
import pytest
from problems import forbidden, quadratic, random_quadratic, random_ridge, ridge

import metacontrast as mc

ESTIMATORS = [mc.Contrastive(0.1), mc.Unrolled(), mc.FirstOrder()]


def refuse(problem, theta, task, match):
    """Everything that would learn `task` says no, with the solver never called."""
    loss = mc.meta_loss(problem, forbidden, mc.Contrastive(0.1))
    calls = [lambda: mc.check(problem, theta, task), lambda: loss(theta, task)]
    calls.append(lambda: jax.grad(loss)(theta, task))
    for call in calls:
        with pytest.raises(ValueError, match=match):
            call()


def refuse_by_shape(problem, theta, task, match):
    """`refuse`, and so does every estimator of its own, and under jit."""
    refuse(problem, theta, task, match)
    for estimator in ESTIMATORS:
        with pytest.raises(ValueError, match=match):
            mc.meta_gradient(problem, forbidden, estimator)(theta, task)
    with pytest.raises(ValueError, match=match):
        jax.jit(mc.meta_loss(problem, forbidden, ESTIMATORS[0]))(theta, task)


def test_good_input_is_accepted():
    mc.check(quadratic, *random_quadratic(0))
    mc.check(ridge, *random_ridge(0))


def floats(init=lambda theta, task: jnp.zeros(2), inner=None, outer=None):
    """A problem that accepts any theta and task."""
    zero = lambda phi, theta, task: jnp.sum(phi**2)
    return mc.Problem(init, inner or zero, outer or zero)


@pytest.mark.parametrize(
    "leaf",
    [jnp.array([1, 2]), 3, True, jnp.ones(2, complex), jax.random.key(0)],
    ids=["integers", "an integer", "a boolean", "complex", "a key"],
)
def test_theta_that_is_not_floating_is_refused(leaf):
    problem, theta = floats(), {"good": 1.0, "bad": leaf}
    for call in (
        lambda: mc.check(problem, theta, 0.0),
        lambda: mc.meta_loss(problem, forbidden, ESTIMATORS[0])(theta, 0.0),
        *(lambda e=e: mc.meta_gradient(problem, forbidden, e)(theta, 0.0) for e in ESTIMATORS),
    ):
        with pytest.raises(ValueError, match=r"^theta: leaf \['bad'\]"):
            call()


@pytest.mark.parametrize(
    "start", [jnp.array([1, 2]), {"a": jnp.zeros(2), "b": jnp.zeros(2, bool)}, jnp.ones(2, complex)]
)
def test_phi_that_is_not_floating_is_refused(start):
    refuse_by_shape(floats(init=lambda theta, task: start), 1.0, 0.0, "^phi")


def test_narrow_floats_are_floats():
    theta = {"half": jnp.ones(2, jnp.bfloat16), "single": jnp.ones(2, jnp.float32)}
    mc.check(floats(init=lambda theta, task: theta["half"]), theta, 0.0)


@pytest.mark.parametrize("name", ["inner", "outer"])
@pytest.mark.parametrize(
    "loss",
    [
        lambda phi, theta, task: phi**2,
        lambda phi, theta, task: jnp.sum(phi**2)[None],
        lambda phi, theta, task: (jnp.sum(phi**2), phi),
        lambda phi, theta, task: jnp.sum(phi > 0),
    ],
    ids=["a vector", "one row", "a pair", "an integer"],
)
def test_loss_that_is_not_one_number_is_refused(name, loss):
    refuse_by_shape(floats(**{name: loss}), 1.0, 0.0, rf"^problem\.{name}")


@pytest.mark.parametrize("name", ["inner", "outer"])
@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, -jnp.inf])
def test_loss_that_is_not_finite_at_the_start_is_refused(name, value):
    loss = lambda phi, theta, task: jnp.sum(phi**2) + task
    refuse(floats(**{name: loss}), 1.0, jnp.array(value), rf"^problem\.{name}")


def test_data_that_is_not_finite_is_refused():
    theta, task = random_ridge(0)
    bad = task._replace(test=task.test._replace(y=task.test.y.at[1].set(jnp.nan)))
    refuse(ridge, theta, bad, r"^problem\.outer")


# Data


def halves(train_x, train_y, test_x, test_y):
    zeros = lambda shape: jnp.zeros(shape)
    return mc.Task(mc.Data(zeros(train_x), zeros(train_y)), mc.Data(zeros(test_x), zeros(test_y)))


@pytest.mark.parametrize(
    ("task", "match"),
    [
        (halves((5, 2), (4,), (6, 2), (6,)), r"^task\.train: x and y"),
        (halves((5, 2), (5,), (6, 2), (5,)), r"^task\.test: x and y"),
        (halves((5, 2), (5,), (6, 3), (6,)), r"^task\.test\.x"),
        (halves((5, 2), (5,), (6, 2), (6, 1)), r"^task\.test\.y"),
        (halves((5, 2), (5,), (6, 2, 1), (6,)), r"^task\.test\.x"),
        (halves((5, 2), (), (6, 2), (6,)), r"^task\.train: x and y"),
    ],
    ids=["train rows", "test rows", "features", "targets", "axes", "no rows"],
)
def test_data_that_do_not_fit_are_refused(task, match):
    refuse_by_shape(floats(), 1.0, task, match)


def test_data_of_different_types_are_refused():
    task = halves((5, 2), (5,), (6, 2), (6,))
    labels = task._replace(test=task.test._replace(y=jnp.zeros(6, int)))
    refuse_by_shape(floats(), 1.0, labels, r"^task\.test\.y.*int")


def test_data_of_different_structure_are_refused():
    task = halves((5, 2), (5,), (6, 2), (6,))
    pair = task._replace(test=task.test._replace(x=(task.test.x, task.test.x)))
    refuse_by_shape(floats(), 1.0, pair, r"^task\.test\.x")


def test_train_and_test_may_have_different_numbers_of_rows():
    mc.check(floats(), 1.0, halves((5, 2), (5, 3), (60, 2), (60, 3)))


def test_any_other_task_is_the_users_affair():
    mc.check(floats(), 1.0, {"train": jnp.zeros((5, 2)), "test": jnp.zeros((3, 7))})


def test_what_is_checked_under_jit_is_what_shapes_can_tell():
    problem = floats(inner=lambda phi, theta, task: jnp.sum(phi**2) + task)
    loss = jax.jit(mc.meta_loss(problem, mc.descend(optax.sgd(0.1), 1), mc.Contrastive(0.1)))
    assert jnp.isfinite(loss(1.0, jnp.nan))  # the outer loss at a phi that a NaN did not move
