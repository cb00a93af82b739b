"""Large learners: how much memory the compiler sets aside, in units of phi.

Its layouts are arithmetic, not measurement: they are the same each time. The bounds count the trees
as large as phi that must be alive at once, and leave half a phi for all that is small.
"""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import EPS

import metacontrast as mc
from metacontrast._contrast import Phase
from metacontrast._diagnostics import phase_diagnostics
from metacontrast._loss import OuterNudge
from metacontrast.train import device_mesh
from metacontrast.train._layout import Layout
from metacontrast.train._loop import first_snapshot
from metacontrast.train._meta_step import MetaStep, compile_dispatch

N = 100_000  # weights, and what one tree of them takes
PHI = 8 * N
KEY = jax.random.key(0)


def loss(phi, data):
    """Of a wide layer, whose examples take far less than its weights."""
    return jnp.mean((jnp.sum(jnp.tanh(phi * data.x), axis=-1) - data.y) ** 2)


problem = mc.Problem(
    init=lambda theta, task: theta,
    inner=lambda phi, theta, task: loss(phi, task.train) + jnp.sum((phi - theta) ** 2),
    outer=lambda phi, theta, task: loss(phi, task.test),
)


def sample_task(key):
    """One example to learn from, and one to be judged on, made from few numbers."""
    a, b = jax.random.normal(key, (2,)) / N
    return mc.Task(mc.Data(a, jnp.ones(())), mc.Data(b, jnp.ones(())))


def trees(program, *args):
    """What the compiled program holds at once, in units of phi."""
    sizes = program.lower(*args).compile().memory_analysis()
    total = sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    return (total + sizes.temp_size_in_bytes) / PHI


@cache
def meta_step(scheme, tasks, task_batch_size, **changes):
    solver, optimizer = mc.descend(optax.sgd(0.1, 0.9), 3), optax.sgd(0.1)
    run = MetaStep(
        problem, solver, mc.Contrastive(0.1, scheme), sample_task, optimizer, tasks, seed=0,
        task_batch_size=task_batch_size, **changes,
    )  # fmt: skip
    state = jax.eval_shape(lambda: first_snapshot(run, jnp.zeros(N)).state)
    return trees(compile_dispatch(run), state, 0, 1)


def test_tasks_one_at_a_time_take_the_memory_of_one():
    assert meta_step("symmetric", 64, 1) < meta_step("symmetric", 4, 1) + 0.5


@pytest.mark.parametrize(("scheme", "phases"), [("forward", 2), ("symmetric", 3)])
def test_a_meta_step_holds_little_more_than_what_it_must(scheme, phases):
    """Theta, its gradient, a phi a phase, a gradient, a momentum, a residual; and loops' copies."""
    must = 2 + phases + 3
    assert must <= meta_step(scheme, 4, 1) < must + 5.5


def test_a_long_task_holds_its_phases_and_no_others():
    """Of each of two a phi and a momentum; theta, its gradient and that of a phase; and copies."""
    must = 2 * 2 + 2 + 1
    assert must <= meta_step("forward", 1, None, warm_start="phases") < must + 4.5


@pytest.mark.thorough
def test_two_devices_hold_half_of_a_learner_each():
    """Also of one that starts from nothing that is split itself."""
    fresh = replace(problem, init=lambda theta, task: jnp.zeros(N))

    def held(layout):
        args = (fresh, mc.descend(optax.sgd(0.1, 0.9), 3), mc.Implicit("identity"), sample_task)
        run = MetaStep(*args, optax.sgd(0.1), tasks=1, seed=0, layout=layout)
        state = jax.eval_shape(lambda: first_snapshot(run, jnp.zeros(())).state)
        return trees(compile_dispatch(run), state, 0, 1)

    assert held(Layout(device_mesh(1, 2))) < held(Layout()) / 2 + 0.1


def diagnostics(phi_0, phis):
    """What a meta-gradient says of phases that stopped at these phis."""
    free = mc.Loss(problem, jnp.zeros(N), sample_task(KEY))
    phases = [
        Phase(free.nudged(OuterNudge(b)), mc.Solution(phi), 1 / (2 * b))
        for b, phi in zip((-0.1, 0.1), phis, strict=True)
    ]
    return phase_diagnostics(free, phi_0, phases)


def test_diagnostics_hold_one_gradient_at_a_time():
    some = jnp.zeros(N)
    # The three phis, a gradient with the two trees on the way to it, and the sum of them all.
    assert trees(jax.jit(diagnostics), some, [some, some]) < 3 + 5.5


def test_diagnostics_compiled_are_those_by_their_formulas():
    phi_0, *phis = 0.3 * jax.random.normal(KEY, (3, N))
    compiled = jax.jit(diagnostics)(phi_0, phis)
    norm, task, theta = jnp.linalg.norm, sample_task(KEY), jnp.zeros(N)
    value = lambda phi, b: problem.inner(phi, theta, task) + b * problem.outer(phi, theta, task)
    slope = jax.jit(jax.grad(value))
    ends = list(zip((-0.1, 0.1), phis, [phi - phi_0 for phi in phis], strict=True))
    expected = {
        "residual": norm(slope(phi_0, 0.0)),
        "nudged_residual": [norm(slope(phi, b)) for b, phi, _ in ends],
        "distance": [norm(d) for _, _, d in ends],
        # The weights of both are 1 / 2b, that of the free phase is 0.
        "linear_residual": norm(slope(phis[1], 0.1) - slope(phis[0], -0.1))
        / 0.2
        / norm(jax.grad(problem.outer)(phi_0, theta, task)),
        "nudged_curvature": [d @ (slope(phi, b) - slope(phi_0, b)) / (d @ d) for b, phi, d in ends],
    }
    for name, value in expected.items():
        # Sums of N terms, of which the curvature's cancel in part.
        np.testing.assert_allclose(compiled[name], value, rtol=N * EPS)


def test_a_phase_that_did_not_move_has_no_curvature():
    phi = jnp.ones(N)
    still = jax.jit(diagnostics)(phi, [phi, phi])
    np.testing.assert_array_equal(still["nudged_curvature"], 0)
