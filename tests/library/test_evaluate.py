"""How well held-out tasks are learned."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import EPS, forbidden
from toy_run import STEEP, Spring, noisy, problem, solver, spring

import metacontrast as mc
from metacontrast.train import evaluate, evaluator

THETA = jnp.array(0.5)


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1000 * EPS)


def springs(n):
    return Spring(jnp.linspace(-2, 2, n), jnp.ones(n))


@pytest.mark.parametrize("batch", [3, 100])
def test_evaluation_is_a_loop_over_tasks(batch):
    tasks, keys = springs(7), [jax.random.fold_in(jax.random.key(5), i) for i in range(7)]
    scores = evaluate(noisy, solver, THETA, tasks, seed=5, batch=batch)
    single = [jax.tree.map(lambda leaf, i=i: leaf[i], tasks) for i in range(7)]
    phis = [mc.solve_inner(noisy, solver, THETA, *x).phi for x in zip(single, keys, strict=True)]
    assert isinstance(scores, np.ndarray)
    close(scores, [(phi - 1) ** 2 for phi in phis])


def test_the_leaves_of_a_task_may_have_any_shapes():
    wide = {"spring": springs(4), "rows": jnp.ones((4, 2, 3))}
    inside = lambda loss: lambda phi, theta, z: loss(phi, theta, z["spring"])
    both = replace(
        problem,
        init=lambda theta, z: problem.init(theta, z["spring"]),
        inner=inside(problem.inner),
        outer=inside(problem.outer),
    )
    close(evaluate(both, solver, THETA, wide), evaluate(problem, solver, THETA, springs(4)))


def test_evaluation_by_a_metric_and_of_what_diverges():
    tasks = springs(3)._replace(steepness=jnp.array([1.0, STEEP, 1.0]))
    metric = lambda phi, theta, task: (phi - task.centre + theta) ** 2
    scores = evaluate(problem, solver, THETA, tasks, metric=metric)
    close(scores[[0, 2]], [1.75**2, 0.25**2])
    assert not np.isfinite(scores[1])


def test_an_evaluator_compiles_once():
    traces = []

    def counted(loss, phi):
        traces.append(1)
        return phi - jax.grad(loss)(phi) / 4

    scores = evaluator(problem, counted, batch=2)
    first = scores(THETA, springs(4))
    once = len(traces)
    assert not np.array_equal(scores(2 * THETA, springs(4), seed=3), first)
    assert len(traces) == once > 0


@pytest.mark.parametrize(
    "tasks", [Spring(jnp.ones(3), jnp.ones(2)), spring(jax.random.key(0)), springs(0)]
)
def test_tasks_that_are_not_stacked_are_refused(tasks):
    with pytest.raises(ValueError, match=r"^tasks: .*Stack"):
        evaluate(problem, forbidden, THETA, tasks)


@pytest.mark.parametrize("seed", [-1, 2**32, 2**40, 0.5, None])
def test_a_seed_that_is_no_key_of_its_own_is_refused(seed):
    with pytest.raises(
        (TypeError, ValueError), match=r"^seed: must be a whole number from 0 to 4294967295"
    ):
        evaluate(problem, forbidden, THETA, springs(2), seed=seed)


def test_seeds_draw_as_their_keys_do_to_the_last():
    for seed in (3, 2**32 - 1):
        scores = evaluate(noisy, solver, THETA, springs(1), seed=seed)
        key = jax.random.fold_in(jax.random.key(seed), 0)
        task = jax.tree.map(lambda leaf: leaf[0], springs(1))
        close(scores, [(mc.solve_inner(noisy, solver, THETA, task, key).phi - 1) ** 2])
    assert evaluate(noisy, solver, THETA, springs(1), seed=2**32 - 2) != scores


def test_an_evaluator_of_nothing_at_a_time_is_refused():
    with pytest.raises(ValueError, match=r"^batch"):
        evaluator(problem, solver, batch=0)


def test_what_cannot_be_learned_is_refused():
    with pytest.raises(ValueError, match=r"^problem.inner: must return one .*, not \w+\[\d"):
        evaluate(replace(problem, inner=lambda *x: jnp.ones(2)), forbidden, THETA, springs(2))
