"""Many devices, one result: tasks spread, parameters split, processes that die."""

import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy_run
from jax.sharding import AxisType, Mesh
from problems import EPS, forbidden
from toy_run import draw, lines, noisy, problem, solve

import metacontrast as mc
from metacontrast.nets import mlp
from metacontrast.tasks import sine
from metacontrast.train import (
    _meta_step,
    _reduce,
    device_mesh,
    evaluate,
    meta_train,
    use_devices,
    warm_train,
)
from metacontrast.train._mesh import placed, spread

SHAPES = [(4, 1), (1, 2), (2, 2)]
mesh_shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}x{s[1]}")


# Which task counts, and how much: the gradient of each is a direction of its own

TASKS = 13  # over 2, 3 or 4 devices some must be filled up


class Known(NamedTuple):
    direction: jax.Array
    lost: jax.Array


class Directions:
    """The gradient of a task is a random direction; of some it is not finite."""

    def value_and_grad(self, problem, solve, theta, task, key=None):
        grad = jnp.where(task.lost, jnp.nan, task.direction)
        return (jnp.zeros(()), {}), grad


def direction(key):
    """A task that is known by its direction; one in four is lost."""
    at, of = jax.random.split(key)
    lost = jax.random.uniform(of) < 0.25
    return Known(jax.random.normal(at, (32,)), lost)


still = mc.Problem(
    init=lambda theta, task: theta,
    inner=lambda phi, theta, task: jnp.sum(phi**2),
    outer=lambda phi, theta, task: jnp.sum(phi**2),
)


def weights(mesh, t=2):
    """By which weight each task of meta-step `t` entered the mean: found from theta's change."""
    trained = meta_train(
        still, solve, Directions(), direction, jnp.zeros(32), optax.sgd(lambda i: 1.0 * (i == t)),
        steps=t + 1, tasks=TASKS, seed=7, chunk=1, every=1, progress=False, mesh=mesh,
    )  # fmt: skip
    tasks = jax.vmap(direction)(_meta_step.task_keys(7, t, TASKS)[0])
    # Thirteen directions in 32 dimensions are independent: one combination of them gives the mean.
    found, left, rank, _ = np.linalg.lstsq(np.array(tasks.direction).T, -trained.theta)
    assert rank == TASKS and left[0] < 1e-24
    assert trained.metrics[t]["diverged"] == int(tasks.lost.sum()) > 0
    return found, np.where(tasks.lost, 0, 1 / int((~tasks.lost).sum()))


@mesh_shapes
def test_each_task_enters_the_mean_once_and_lost_ones_and_copies_not_at_all(shape):
    np.testing.assert_allclose(*weights(device_mesh(*shape)), atol=1000 * EPS)


def test_a_sum_that_counts_copies_would_be_seen(monkeypatch):
    def wrong(rows, mesh):
        rows, real = spread(rows, mesh)
        return rows, jnp.ones_like(real)

    monkeypatch.setattr(_reduce, "spread", wrong)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(*weights(device_mesh(4)), atol=1e-3)


def test_tasks_that_are_mixed_would_be_seen(monkeypatch):
    def wrong(rows, mesh):
        rows, real = spread(rows, mesh)
        return jax.tree.map(lambda x: x[jnp.arange(len(x)) // 2], rows), real

    monkeypatch.setattr(_reduce, "spread", wrong)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(*weights(device_mesh(2)), atol=1e-3)


# The whole loop


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run on one device, and its folder."""
    out = tmp_path_factory.mktemp("whole") / "run"
    return toy_run.toy_run(out), out


def assert_same_run(trained, out, whole):
    """Up to rounding, which 95 steps of Adam may amplify, but not a hundred thousand fold."""
    expected, folder = whole
    close = partial(np.testing.assert_allclose, rtol=1e5 * EPS, atol=1e5 * EPS)
    jax.tree.map(close, (trained.theta, trained.best), (expected.theta, expected.best))
    for one, other in zip(lines(out), lines(folder), strict=True):
        assert one.keys() == other.keys()
        assert one["diverged"] == other["diverged"]
        close([x or 0 for x in one.values()], [x or 0 for x in other.values()])


@pytest.mark.parametrize("shape", [(3, 1), (2, 2)])
def test_a_run_on_many_devices_is_the_run_on_one(tmp_path, whole, shape):
    mesh = device_mesh(*shape)
    assert_same_run(toy_run.toy_run(tmp_path, mesh=mesh), tmp_path, whole)


def test_tasks_that_come_some_at_a_time_are_spread_too():
    def run(**where):
        return meta_train(
            problem, solve, mc.Unrolled(), toy_run.draw_some_steep, jnp.array(0.5), optax.sgd(0.1),
            steps=3, tasks=9, seed=0, every=1, chunk=1, progress=False, **where,
        )  # fmt: skip

    one, many = run(), run(at_a_time=3, mesh=device_mesh(2))
    np.testing.assert_allclose(many.theta, one.theta, rtol=1000 * EPS)
    assert many.diverged == one.diverged > 0


def test_one_long_task_splits_its_parameters():
    long = mc.Problem(
        init=lambda theta, task: jnp.zeros(4),
        inner=lambda phi, theta, task: jnp.sum((phi - task) ** 2 + theta**2 * phi**2),
        outer=lambda phi, theta, task: jnp.sum((phi - 1.0) ** 2),
    )

    def run(mesh=None, steps=20):
        return warm_train(
            long, mc.descend(optax.sgd(0.1), 1), mc.Contrastive(0.1), lambda key: jnp.arange(4.0),
            jnp.full(4, 0.5), optax.adam(0.1), steps=steps, seed=0, chunk=5, every=10,
            progress=False, mesh=mesh,
        )  # fmt: skip

    found, expected = run(device_mesh(1, 2)), run()
    assert not found.phi.sharding.is_fully_replicated
    np.testing.assert_allclose(found.theta, expected.theta, rtol=1e4 * EPS)
    np.testing.assert_allclose(found.phi, expected.phi, rtol=1e4 * EPS)
    with pytest.raises(ValueError, match=r"^tasks: 1 cannot be spread over the 2 devices"):
        run(device_mesh(2))


@pytest.mark.parametrize(("first", "then"), [(None, (2, 1)), ((2, 2), None)])
def test_a_run_resumes_on_other_devices(tmp_path, whole, first, then):
    class Stop(Exception):
        pass

    def stop(theta):
        if len(lines(tmp_path)) == 4:
            raise Stop
        return toy_run.score(theta)

    first, then = (None if shape is None else device_mesh(*shape) for shape in (first, then))
    with pytest.raises(Stop):
        toy_run.toy_run(tmp_path, mesh=first, valid=stop)
    assert_same_run(toy_run.toy_run(tmp_path, mesh=then, resume=True), tmp_path, whole)


def test_what_is_returned_and_validated_lies_on_one_device():
    seen = []

    def valid(theta):
        seen.append(theta)
        return {"loss": jnp.sum(theta)}

    found = meta_train(
        problem, solve, mc.Unrolled(), draw, jnp.array(0.5), optax.sgd(0.1), steps=1, tasks=4,
        seed=0, every=1, chunk=1, valid=valid, progress=False, mesh=device_mesh(4),
    )  # fmt: skip
    for theta in (found.theta, found.best, *seen):
        assert theta.devices() == {jax.devices()[0]}


@pytest.mark.parametrize("shape", [(2, 1), (3, 1), (2, 2)])
@pytest.mark.parametrize("batch", [3, 100])
def test_evaluation_on_many_devices_is_that_on_one(shape, batch):
    tasks = jax.vmap(draw)(jax.random.split(jax.random.key(1), 7))
    score = partial(evaluate, noisy, solve, jnp.array(0.5), tasks, seed=5, batch=batch)
    np.testing.assert_allclose(score(mesh=device_mesh(*shape)), score(), rtol=100 * EPS)


# That work and parameters are really divided


def test_devices_get_equally_many_tasks():
    rows, real = jax.jit(partial(spread, mesh=device_mesh(4)))(jnp.arange(13))
    assert [shard.data.tolist() for shard in rows.addressable_shards] == [
        [0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 0, 1, 2],
    ]  # fmt: skip
    assert real.tolist() == [True] * 13 + [False] * 3


@pytest.mark.parametrize(
    "solver",
    [mc.gauss_newton(3), mc.until_converged(optax.sgd(1e-2), 1.0)],
    ids=["gauss_newton", "until_converged"],
)
def test_each_device_does_its_share_and_sends_no_gradient_of_a_task(solver):
    net = mlp(1, 8, 2, 1)

    def residual(phi, theta, example):
        return net.apply(phi, example.x) - example.y

    learner = mc.Problem(
        init=lambda theta, task: theta[0],
        inner=mc.LeastSquares(residual, lambda task: task.train, lambda theta: theta),
        outer=mc.LeastSquares(residual, lambda task: task.test),
    )
    theta = net.init(jax.random.key(0))
    theta = (theta, jax.tree.map(jnp.ones_like, theta))

    def program(mesh):
        def one(theta, key):
            task = sine(key, shots=10, queries=10)
            return mc.Contrastive(0.1).value_and_grad(learner, solver, theta, task)[1]

        def mean(theta, keys):
            keys, _ = spread(keys, mesh)
            grads = jax.vmap(one, in_axes=(None, 0))(theta, keys)
            return jax.tree.map(lambda x: jnp.mean(x, axis=0), grads)

        keys = jax.random.split(jax.random.key(0), 8)
        return jax.jit(mean).lower(placed(theta, mesh), keys).compile()

    alone, spread_out = program(None), program(device_mesh(4))
    assert "all-reduce" in spread_out.as_text()
    assert "all-gather" not in spread_out.as_text()
    assert spread_out.cost_analysis()["flops"] < 0.4 * alone.cost_analysis()["flops"]


def test_parameters_are_split_along_their_longest_axis_that_can_be():
    leaves = {"a": (6, 4), "b": (3, 8), "c": (5, 2), "d": (3,), "e": (), "f": (0, 2), "g": (4, 4)}
    tree = {name: jnp.zeros(shape) for name, shape in leaves.items()}
    found = placed(tree, device_mesh(2, 2))
    half = {"a": (3, 4), "b": (3, 4), "c": (5, 1), "d": (3,), "e": (), "f": (0, 1), "g": (2, 4)}
    assert {name: x.addressable_shards[0].data.shape for name, x in found.items()} == half


# What runs outside JAX


@pytest.mark.parametrize("method", ["sequential", "expand_dims"])
def test_callbacks_are_called_with_every_task_and_are_right(method):
    def square(x):
        return np.square(x)

    def inner(phi, theta, task):
        shape = jax.ShapeDtypeStruct((), phi.dtype)
        target = jax.pure_callback(square, shape, task.centre, vmap_method=method)
        return (phi - target) ** 2 + (phi - theta) ** 2

    outside = mc.Problem(init=problem.init, inner=inner, outer=problem.outer)
    run = partial(
        meta_train, outside, solve, mc.Contrastive(0.1), draw, jnp.array(0.5), optax.sgd(0.1),
        steps=3, tasks=6, seed=0, every=3, chunk=3, progress=False,
    )  # fmt: skip
    np.testing.assert_allclose(run(mesh=device_mesh(2)).theta, run().theta, rtol=1000 * EPS)


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
            problem, forbidden, mc.Unrolled(), forbidden, jnp.array(0.5), optax.sgd(0.1),
            steps=1, tasks=2, seed=0, mesh=mesh(), out=tmp_path / "run",
        )  # fmt: skip
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(devices=0), "^devices"),
        (dict(mesh=(2, 0)), "^mesh"),
        (dict(devices=2, mesh=(2, 2)), "^mesh: 2x2 are 4 devices, not 2"),
        (dict(coordinator="localhost:1234"), "^distributed: .*go together"),
        (dict(distributed=True, process=0), "^distributed: .*SLURM"),
        (
            dict(distributed=True, coordinator="h:1", processes=2, process=2),
            "^process: must be 0 to 1, not 2",
        ),
    ],
)
def test_devices_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        use_devices(**changes)


def test_devices_cannot_be_chosen_once_jax_has_started():
    jax.devices()
    with pytest.raises(RuntimeError, match="before"):
        use_devices(2)


# Two processes


def start(out, port, process):
    script = Path(toy_run.__file__)
    where = [f"127.0.0.1:{port}", str(process)]
    return subprocess.Popen(
        [sys.executable, script, out, *where], stderr=subprocess.PIPE, text=True
    )


def start_both(out):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [start(out, port, process) for process in (0, 1)]


def finished(process):
    """What it said, and its exit status; a process that hangs is the failure of the test."""
    try:
        return process.communicate(timeout=100)[1], process.returncode
    finally:
        process.kill()
        process.wait()


def killed(out, victim):
    """Start two, kill one as soon as there is a checkpoint; the other ends and says why."""
    both = start_both(out)
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and all(one.poll() is None for one in both):
        if any(at.name.isdigit() for at in out.glob("checkpoints/*")):
            break
        time.sleep(0.01)
    both[victim].send_signal(signal.SIGKILL)
    (_, died), (said, status) = finished(both[victim]), finished(both[1 - victim])
    assert died == -signal.SIGKILL
    # By us, or by JAX's runtime, whichever sees it first.
    ours = f"process {1 - victim} lost another one" in said and "resume=True" in said
    assert (status == 2 and ours) or (status == -signal.SIGABRT and "another task died" in said)


def test_two_processes_are_the_run_of_one_and_one_that_dies_takes_the_other_along(tmp_path, whole):
    killed(tmp_path, victim=1)
    reached = len(lines(tmp_path))
    assert 1 <= reached < 10
    done = [finished(one) for one in start_both(tmp_path)]
    assert [status for _, status in done] == [0, 0], done
    again = toy_run.toy_run(tmp_path, resume=True, solve=forbidden)
    assert_same_run(again, tmp_path, whole)


def test_the_death_of_the_first_process_ends_the_other_and_one_process_goes_on(tmp_path, whole):
    killed(tmp_path, victim=0)
    assert_same_run(toy_run.toy_run(tmp_path, resume=True), tmp_path, whole)
