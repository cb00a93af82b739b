"""Large learners: how much memory the compiler sets aside, in units of phi.

Its layouts are arithmetic, not measurement: they are the same each time. The bounds count the trees
as large as phi that must be alive at once, and leave half a phi for all that is small.
"""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import EPS

import metacontrast as mc
from metacontrast._diagnostics import contrasted, in_turn
from metacontrast._holomorphic import gradient
from metacontrast.train._meta_step import start, stepper

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


def draw(key):
    """One example to learn from, and one to be judged on, made from few numbers."""
    a, b = jax.random.normal(key, (2,)) / N
    return mc.Task(mc.Data(a, jnp.ones(())), mc.Data(b, jnp.ones(())))


def trees(program, *args):
    """What the compiled program holds at once, in units of phi."""
    sizes = program.lower(*args).compile().memory_analysis()
    held = sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    return (held + sizes.temp_size_in_bytes) / PHI


def meta_step(scheme, tasks, at_a_time):
    solve, outer = mc.descend(optax.sgd(0.1, 0.9), 3), optax.sgd(0.1)
    rule = mc.Contrastive(0.1, scheme)
    advance = stepper(problem, solve, rule, draw, outer, tasks, 0, None, at_a_time)
    chunk = inspect.getclosurevars(advance).nonlocals["chunk"]
    return trees(chunk, start(jnp.zeros(N), outer, False), 0, 1)


def test_tasks_one_at_a_time_take_the_memory_of_one():
    few, many = meta_step("symmetric", 4, 1), meta_step("symmetric", 64, 1)
    assert many < few + 0.5
    assert many < meta_step("symmetric", 1, 1) + 1.5  # the sum of the meta-gradients
    assert meta_step("symmetric", 64, None) > 64  # which is what all at once would take at least


@pytest.mark.parametrize(("scheme", "phases"), [("forward", 2), ("symmetric", 3)])
def test_a_meta_step_holds_little_more_than_what_it_must(scheme, phases):
    """Theta, its gradient, a phi a phase, a gradient and a momentum; and copies for loops."""
    must = 2 + phases + 2
    assert meta_step(scheme, 4, 1) < must + 4.5


def nudges(task, phis):
    """The augmented losses of the phases, and where each stopped."""
    free = problem.loss(jnp.zeros(N), task)
    return free, [(free.nudged(b), phi) for b, phi in zip((-0.1, 0.1), phis, strict=True)]


def told(phi_0, phis):
    free, ends = nudges(draw(KEY), phis)
    return contrasted(free, phi_0, ends)


def test_diagnostics_hold_one_gradient_at_a_time():
    some = jnp.zeros(N)
    # The three phis, a gradient, and the two trees on the way to it.
    assert trees(jax.jit(told), some, [some, some]) < 3 + 3.5


def test_diagnostics_compiled_are_those_by_their_formulas():
    phi_0, *phis = 0.3 * jax.random.normal(KEY, (3, N))
    found, eager = jax.jit(told)(phi_0, phis), told(phi_0, phis)
    free, ends = nudges(draw(KEY), phis)
    norm, slope = jnp.linalg.norm, lambda at, phi: gradient(at)(phi)
    way = [phi - phi_0 for phi in phis]
    expected = {
        "residual": norm(slope(free, phi_0)),
        "nudged_residual": [norm(slope(at, phi)) for at, phi in ends],
        "distance": [norm(d) for d in way],
        "nudged_curvature": [
            d @ (slope(at, phi) - slope(at, phi_0)) / (d @ d)
            for d, (at, phi) in zip(way, ends, strict=True)
        ],
    }
    for name, value in expected.items():
        # Sums of N terms, of which the curvature's cancel in part.
        np.testing.assert_allclose(found[name], value, rtol=N * EPS)
        np.testing.assert_allclose(eager[name], value, rtol=N * EPS)


def test_a_phase_that_did_not_move_has_no_curvature():
    phi = jnp.ones(N)
    for program in (told, jax.jit(told)):
        np.testing.assert_array_equal(program(phi, [phi, phi])["nudged_curvature"], 0)


def test_functions_in_turn_keep_their_order():
    x = jnp.arange(3.0)
    compute = lambda x, traced: in_turn([lambda: x.sum(), lambda: x.max(), lambda: x[1]], traced)
    assert compute(x, False) == [3, 2, 1] == jax.jit(lambda x: compute(x, True))(x)
