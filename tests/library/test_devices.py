"""Many devices, one result: tasks spread, parameters split."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy_run
from jax.sharding import AxisType, Mesh
from problems import EPS, forbidden, never
from toy_run import assert_close_run, lines, noisy, problem, solver, spring

import metacontrast as mc
from metacontrast.train import device_mesh, evaluate, meta_train
from metacontrast.train._layout import Layout
from metacontrast.train._reduce import sum_over_tasks

SHAPES = [(4, 1), (1, 2), (2, 2)]
mesh_shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}x{s[1]}")


# Which task counts, and how much: the gradient of each is a direction of its own

TASKS = 13  # over 2, 3 or 4 devices some must be filled up
DIRECTIONS = np.random.default_rng(0).normal(size=(TASKS, 32))
LOST = np.arange(TASKS) % 4 == 1  # their gradients are not finite


def weights(layout):
    """How often each task enters the sum, found from it; how many are said to; how many all are."""

    def one(direction, lost):
        return ~lost, jnp.where(lost, jnp.nan, direction), jnp.ones((), int)

    total = jax.jit(lambda *rows: sum_over_tasks(one, rows, TASKS, layout))
    n, summed, every = total(jnp.array(DIRECTIONS), jnp.array(LOST))
    # Thirteen directions in 32 dimensions are independent: one combination of them gives the sum.
    found, left, rank, _ = np.linalg.lstsq(DIRECTIONS.T, np.array(summed))
    assert rank == TASKS and left[0] < 1e-24
    return int(n), found, int(every)


@mesh_shapes
def test_each_task_enters_the_mean_once_and_lost_ones_and_copies_not_at_all(shape):
    n, found, every = weights(Layout(device_mesh(*shape)))
    assert every == TASKS
    assert n == TASKS - LOST.sum() > 0
    np.testing.assert_allclose(found, np.where(LOST, 0, 1), atol=1000 * EPS)


def wrong_layout(change, tasks):
    """A layout of which `change` has spoilt what `shard_tasks` returns."""
    right = Layout(device_mesh(tasks))
    spoilt = lambda rows: change(*right.shard_tasks(rows))
    return SimpleNamespace(shard_tasks=spoilt, task_axis=right.task_axis)


def test_a_sum_that_counts_copies_would_be_seen():
    n, found, every = weights(wrong_layout(lambda rows, real: (rows, jnp.ones_like(real)), 4))
    assert n != TASKS - LOST.sum()
    assert every != TASKS
    assert not np.allclose(found, np.where(LOST, 0, 1), atol=1e-3)


def test_tasks_that_are_mixed_would_be_seen():
    mix = lambda rows, real: (jax.tree.map(lambda x: x[jnp.arange(len(x)) // 2], rows), real)
    _, found, _ = weights(wrong_layout(mix, 2))
    assert not np.allclose(found, np.where(LOST, 0, 1), atol=1e-3)


# The whole loop


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run on one device, and its folder."""
    out = tmp_path_factory.mktemp("whole") / "run"
    return toy_run.toy_run(out), out


class Stop(Exception):
    pass


def stopped_after(n, out, **where):
    """A run that stops as its block `n + 1` is validated; and the kinds of its theta."""
    seen = []

    def stop(theta):
        seen.append(theta["spring"])
        if len(lines(out)) == n:
            raise Stop
        return toy_run.score(theta)

    with pytest.raises(Stop):
        toy_run.toy_run(out, validate=stop, **where)
    return seen


def test_a_run_on_many_devices_is_the_run_on_one(tmp_path, whole):
    """Also where it stops and goes on: eight tasks, of which three devices get three each."""
    mesh = device_mesh(3)
    for theta in stopped_after(8, tmp_path, mesh=mesh):  # any code can look at these
        assert theta.devices() == {jax.devices()[0]}
    again = toy_run.toy_run(tmp_path, mesh=mesh, resume=True)
    assert_close_run(again, tmp_path, *whole)
    for leaf in jax.tree.leaves((again.theta, again.best)):
        assert leaf.devices() == {jax.devices()[0]}


@pytest.mark.parametrize(("first", "then"), [(None, (2, 2)), ((2, 2), None)])
def test_a_run_resumes_on_other_devices(tmp_path, whole, first, then):
    first, then = (None if shape is None else device_mesh(*shape) for shape in (first, then))
    stopped_after(4, tmp_path, mesh=first)
    assert_close_run(toy_run.toy_run(tmp_path, mesh=then, resume=True), tmp_path, *whole)


@pytest.mark.thorough
def test_tasks_that_come_some_at_a_time_are_spread_too():
    one = toy_run.toy_run(None, steps=20)
    many = toy_run.toy_run(None, steps=20, task_batch_size=4, mesh=device_mesh(3))
    np.testing.assert_allclose(many.theta["spring"], one.theta["spring"], rtol=1e5 * EPS)
    assert many.diverged == one.diverged > 0


def test_one_long_task_splits_its_parameters(tmp_path):
    long = mc.Problem(
        init=lambda theta, task: jnp.zeros(4),
        inner=lambda phi, theta, task: jnp.sum((phi - task) ** 2 + theta**2 * phi**2),
        outer=lambda phi, theta, task: jnp.sum((phi - 1.0) ** 2),
    )

    def run(mesh=None, steps=10, **folder):
        return meta_train(
            long, mc.descend(optax.sgd(0.1), 1), mc.Contrastive(0.1), lambda key: jnp.arange(4.0),
            jnp.full(4, 0.5), optax.adam(0.1), steps=steps, tasks=1, seed=0, log_every=5,
            steps_per_dispatch=5, warm_start="phases", progress=False, mesh=mesh, **folder,
        )  # fmt: skip

    run(device_mesh(1, 2), 5, out=tmp_path)
    split, expected = run(device_mesh(1, 2), out=tmp_path, resume=True), run()
    assert not split.phi.sharding.is_fully_replicated
    assert split.theta.devices() == {jax.devices()[0]}
    np.testing.assert_allclose(split.theta, expected.theta, rtol=1e4 * EPS)
    np.testing.assert_allclose(split.phi, expected.phi, rtol=1e4 * EPS)
    with pytest.raises(ValueError, match=r"^tasks: 1 cannot be spread over the 2 devices"):
        run(device_mesh(2))


def test_evaluation_on_many_devices_is_that_on_one():
    tasks = jax.vmap(spring)(jax.random.split(jax.random.key(1), 6))
    score = partial(evaluate, noisy, solver, jnp.array([0.5, 0.1]), tasks, seed=5, batch=3)
    np.testing.assert_allclose(score(mesh=device_mesh(2, 2)), score(), rtol=100 * EPS)


# That work and parameters are really divided


def test_devices_get_equally_many_tasks():
    rows, real = jax.jit(Layout(device_mesh(4)).shard_tasks)(jnp.arange(13))
    assert [shard.data.tolist() for shard in rows.addressable_shards] == [
        [0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 0, 1, 2],
    ]  # fmt: skip
    assert real.tolist() == [True] * 13 + [False] * 3


@pytest.mark.parametrize(
    "solver",
    [mc.gauss_newton(2), mc.until_converged(optax.sgd(1e-2), 1.0)],
    ids=["gauss_newton", "until_converged"],
)
def test_each_device_does_its_share_and_sends_no_gradient_of_a_task(solver):
    def residual(phi, theta, example):
        return phi["out"] @ jnp.tanh(phi["in"] * example.x) - example.y

    learner = mc.Problem(
        init=lambda theta, task: theta.omega,
        inner=mc.LeastSquares(residual, lambda task: task.train, lambda theta: theta),
        outer=mc.LeastSquares(residual, lambda task: task.test),
    )
    omega = {"in": jnp.linspace(-1, 1, 8), "out": jnp.linspace(0, 1, 8)}
    theta = mc.Synapse(omega, jax.tree.map(jnp.ones_like, omega))
    gradient = mc.meta_gradient(learner, solver, mc.Contrastive(0.1), by_z=False)

    def program(layout):
        def mean(theta, phases):
            phases, _ = layout.shard_tasks(phases)
            x = jnp.linspace(-3, 3, 10)
            half = mc.Data(x, jnp.sin(x[None] + phases[:, None]))
            tasks = mc.Task(*[half._replace(x=jnp.broadcast_to(x, (len(phases), 10)))] * 2)
            grads = jax.vmap(gradient, (None, 0))(theta, tasks).by_theta
            return jax.tree.map(lambda x: jnp.mean(x, axis=0), grads)

        return jax.jit(mean).lower(layout.put_parameters(theta), jnp.arange(8.0)).compile()

    alone, many = program(Layout()), program(Layout(device_mesh(4)))
    assert "all-reduce" in many.as_text()
    assert "all-gather" not in many.as_text()
    assert many.cost_analysis()["flops"] < 0.4 * alone.cost_analysis()["flops"]


def test_parameters_are_split_along_their_longest_axis_that_can_be():
    leaves = {"a": (6, 4), "b": (3, 8), "c": (5, 2), "d": (3,), "e": (), "f": (0, 2), "g": (4, 4)}
    tree = {name: jnp.zeros(shape) for name, shape in leaves.items()}
    split = Layout(device_mesh(2, 2)).put_parameters(tree)
    half = {"a": (3, 4), "b": (3, 4), "c": (5, 1), "d": (3,), "e": (), "f": (0, 1), "g": (2, 4)}
    assert {name: x.addressable_shards[0].data.shape for name, x in split.items()} == half


def test_a_constraint_on_the_parameters_of_each_task_keeps_the_tasks_apart():
    layout = Layout(device_mesh(2, 2))
    each = jax.jit(jax.vmap(layout.shard_parameters, spmd_axis_name=layout.task_axis))
    assert each(jnp.zeros((4, 8))).addressable_shards[0].data.shape == (2, 4)


# What runs outside JAX


def test_callbacks_are_called_with_every_task_and_are_right():
    def outside(x, method):
        shape = jax.ShapeDtypeStruct((), x.dtype)
        return jax.pure_callback(np.square, shape, x, vmap_method=method)

    def inner(phi, theta, task):
        target = outside(task.centre, "sequential") + outside(task.centre + 1, "expand_dims")
        return (phi - target) ** 2 + (phi - theta) ** 2

    called = mc.Problem(init=problem.init, inner=inner, outer=problem.outer)
    # One step is exact, and so is the gradient, phi - 1 at phi = (target + theta) / 2.
    rule = mc.Contrastive(0.1, "symmetric", nudge="linear")
    trained = meta_train(
        called, solver, rule, spring, 0.5, optax.sgd(1.0), steps=1, tasks=6, seed=0,
        steps_per_dispatch=1, progress=False, mesh=device_mesh(2),
    )  # fmt: skip
    drawing, _ = jax.random.split(jax.random.fold_in(jax.random.key(0), 0))
    centres = jax.vmap(spring)(jax.random.split(drawing, 6)).centre
    mean = np.mean((centres**2 + (centres + 1) ** 2 + 0.5) / 2 - 1)
    np.testing.assert_allclose(trained.theta, 0.5 - mean, rtol=1000 * EPS)


# Bad input


def odd_mesh(names, kind=AxisType.Auto):
    grid = np.array(jax.devices()[:2]).reshape(2, *[1] * (len(names) - 1))
    return Mesh(grid, names, axis_types=(kind,) * len(names))


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        (lambda: device_mesh(3, 2), r"^mesh: 3x2 needs 6 devices, and there are 4; on CPU"),
        (lambda: device_mesh(0), "^tasks"),
        (lambda: device_mesh(2, 0), "^parameters"),
        (lambda: device_mesh(3), r"^tasks: 2 cannot be spread over the 3 devices"),
        (lambda: odd_mesh(("data",)), r"^mesh: its axes must be 'tasks'.*\('data',\)"),
        (lambda: odd_mesh(("tasks", "model")), "^mesh: its axes"),
        (lambda: odd_mesh(("tasks",), AxisType.Explicit), "^mesh: .*type Auto"),
    ],
)
def test_meshes_that_do_not_fit_are_refused(tmp_path, mesh, message):
    with pytest.raises(ValueError, match=message):
        meta_train(
            problem, forbidden, mc.Unrolled(), never, 0.5, optax.sgd(0.1),
            steps=1, tasks=2, seed=0, mesh=mesh(), out=tmp_path / "run",
        )  # fmt: skip
    assert not (tmp_path / "run").exists()
