"""One long task, whose phases go on from meta-step to meta-step: warm starts of the loop."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import EPS, forbidden
from toy_run import assert_same, lines

import metacontrast as mc
from metacontrast.train import DivergedError, meta_train
from metacontrast.train._checkpoints import Checkpoints

# Phases of two steps have not converged.
pytestmark = pytest.mark.filterwarnings("ignore:Of .* tasks of")
SEED = 5
# Momentum, and noise with a key: what a phase must remember besides phi.
SOLVER = mc.descend(optax.chain(optax.add_noise(1e-6, 0.5, 5), optax.sgd(0.1, 0.5)), 2)

problem = mc.Problem(
    init=lambda theta, task: jnp.zeros(4),
    inner=lambda phi, theta, task: jnp.sum((phi - task) ** 2 + theta**2 * phi**2),
    outer=lambda phi, theta, task: jnp.sum((phi - 1.0) ** 2),
    sample=lambda task, key: task + 0.1 * jax.random.normal(key, (4,)),
)


def sample_task(key):
    """A part of the data."""
    return jnp.arange(1.0, 5.0) + 0.1 * jax.random.uniform(key, (4,))


def estimator(t):
    """A schedule for beta, which the loop traces."""
    return mc.Contrastive(0.1 / (1 + 0.1 * t))


def run(**changes):
    arguments = dict(
        problem=problem, solver=SOLVER, estimator=estimator, sample_task=sample_task,
        theta=jnp.full(4, 0.5), optimizer=optax.adam(0.1), steps=12, tasks=1, seed=SEED,
        log_every=4, steps_per_dispatch=2, warm_start="phases", progress=False,
        on_flag="warn",
    )  # fmt: skip
    return meta_train(**(arguments | changes))


@cache
def by_hand(warm_start):
    """Theta and the free phase's phi after each meta-step; the metrics of each."""
    meta = optax.adam(0.1)

    @jax.jit
    def step(t, theta, moments, phases):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(SEED), t))
        drawing, learning = (jax.random.split(key, 1)[0] for key in keys)
        gradient = mc.meta_gradient(problem, SOLVER, estimator(t))
        last = gradient(theta, sample_task(drawing), learning, phases)
        updates, moments = meta.update(last.by_theta, moments, theta)
        return last, theta + updates, moments

    first, rows = jnp.full(4, 0.5), []
    last, *_ = step(0, first, meta.init(first), None)
    theta, moments = first, meta.init(first)
    for t in range(12):
        phases = last.phases if warm_start == "phases" else last.phases._replace(nudged=None)
        last, theta, moments = step(t, theta, moments, phases)
        rows.append((theta, last.phases.free.phi, last.value, last.aux["nudged_outer"][0]))
    return rows


def close(actual, expected):
    # The contrast divides rounding by beta, and Adam's first steps by the gradient's size.
    np.testing.assert_allclose(actual, expected, rtol=1e5 * EPS)


def start_phi(theta):
    drawing, learning = jax.random.split(jax.random.fold_in(jax.random.key(SEED), 0))
    task, key = (jax.random.split(x, 1)[0] for x in (drawing, learning))
    return mc.solve_inner(problem, SOLVER, jnp.full(4, theta), sample_task(task), key).phi


@pytest.mark.parametrize("warm_start", ["phases", pytest.param("free", marks=pytest.mark.thorough)])
def test_the_loop_of_one_long_task_is_that_by_hand(warm_start):
    validated = []

    def validate(theta, phi):
        validated.append((np.array(theta), np.array(phi)))
        return {"loss": -len(validated)}

    trained, rows = run(warm_start=warm_start, validate=validate), by_hand(warm_start)
    (theta, phi), *later = validated  # the first one is of where the phases of the first task stop
    close(theta, 0.5)
    close(phi, start_phi(0.5))
    for (theta, phi), row in zip(later, rows[3::4], strict=True):
        close(theta, row[0])
        close(phi, row[1])
    close(trained.theta, rows[-1][0])
    close(trained.phi, rows[-1][1])
    assert_same(trained.best, trained.theta)
    assert [line["step"] for line in trained.metrics] == [4, 8, 12]
    values = np.reshape([row[2] for row in rows], (3, 4)).mean(axis=1)
    close([line["meta_loss"] for line in trained.metrics], values)
    nudged = np.reshape([row[3] for row in rows], (3, 4)).mean(axis=1)
    close([line["nudged_outer"] for line in trained.metrics], nudged)
    # What would take further gradients is not looked at.
    assert not {"residual", "nudged_residual", "nudged_curvature"} & trained.metrics[0].keys()


def test_restarted_nudged_phases_differ_from_those_that_go_on():
    assert not np.allclose(by_hand("free")[-1][0], by_hand("phases")[-1][0], rtol=1e-3)


def test_a_run_that_crashed_and_resumed_is_the_run_that_did_not(tmp_path):
    def validate(theta, phi):
        if crash and len(lines(tmp_path / "part")) == 1:
            raise RuntimeError("power cut")
        return {"loss": jnp.sum(phi)}

    crash = False
    whole = run(out=tmp_path / "whole", validate=validate)
    crash = True
    with pytest.raises(RuntimeError, match="power cut"):
        run(out=tmp_path / "part", validate=validate)
    assert Checkpoints(tmp_path / "part" / "checkpoints").steps() == [4]
    crash = False
    again = run(out=tmp_path / "part", resume=True, validate=validate)
    assert_same((again.theta, again.best, again.phi), (whole.theta, whole.best, whole.phi))
    assert lines(tmp_path / "part") == lines(tmp_path / "whole")
    # A finished run comes back without compute.
    finished = run(out=tmp_path / "whole", resume=True, validate=validate)
    assert_same((finished.theta, finished.phi), (whole.theta, whole.phi))


def test_phases_that_diverge_stop_the_run():
    with pytest.raises(DivergedError, match=r"meta-step \d+: every task diverged"):
        run(theta=jnp.full(4, 1e20))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            dict(tasks=2),
            ValueError,
            r"^warm_start: .*one long task, so that tasks must be 1, not 2",
        ),
        (dict(warm_start="nudged"), ValueError, r"^warm_start: must be 'phases', 'free' or None"),
        (dict(estimator=mc.FirstOrder()), TypeError, r"^warm_start: FirstOrder\(\) looks at where"),
        (dict(estimator=lambda t: mc.Reptile()), TypeError, r"^warm_start: Reptile\(\) .*Implicit"),
    ],
)
def test_what_cannot_go_on_is_refused(tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        run(solver=forbidden, out=tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()
