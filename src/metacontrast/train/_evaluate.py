"""How well held-out tasks are learned."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, UInt32

from .._check import check_shapes
from .._checked import checked
from .._expected import check_arity
from .._features import Features, problem_inputs
from .._loss import Loss
from .._must import Count, Seed
from .._precision import Precision
from .._problem import Problem
from .._solver._base import SolverLike
from .._solver._function import solve_inner
from .._types import Arrays, Key, Learned, PyTree, Step
from ._layout import Layout
from ._mesh import resolve_mesh
from ._processes import explain_lost_process

Metric: TypeAlias = Callable[..., Float[Array, ""]]


@runtime_checkable
class Scores(Protocol):
    """What `evaluator` returns."""

    def __call__(self, theta: PyTree, tasks: PyTree, seed: int = 0) -> np.ndarray:
        """One value a task, in order."""


def evaluator(
    problem: Problem,
    solver: SolverLike,
    *,
    metric: Metric | None = None,
    batch: Count = 100,
    features: Features | None = None,
    mesh: Mesh | None = None,
    precision: Precision = "highest",
) -> Scores:
    """`scores(theta, tasks, seed=0)`: learn each task by the free phase alone, and judge it.

    Build it once and call it often: it compiles once for whole batches of tasks, however many
    there are, and once for what is left over.

    Args:
        problem: what is learned.
        solver: how; a `Solver`, or any function that `as_solver` takes.
        metric: `(phi, theta, z) -> number`, called as the losses are. Default: the outer loss.
        batch: how many tasks are learned at a time, which bounds the memory.
        features: `(theta, task) -> (theta, z)`, with which the problem is called; see `meta_train`.
        mesh: the devices that those tasks are spread over; see `meta_train`.
        precision: of the products that say nothing else; see `meta_train`.

    Returns:
        `scores`. Its `tasks` are a task whose every leaf has one more axis, the first; it returns
        one value a task, in order. Values that are not finite stay as they are: count them.

    Raises:
        ValueError: batch < 1; from `scores`, a seed beyond 2^32 - 1, leaves of tasks that differ in
            number, and bad input (see `check`).

    Example:
        >>> import jax.numpy as jnp, optax, metacontrast as mc
        >>> problem = mc.Problem(
        ...     init=lambda theta, task: theta,
        ...     inner=lambda phi, theta, task: (phi - task) ** 2 + (phi - theta) ** 2,
        ...     outer=lambda phi, theta, task: phi**2,
        ... )
        >>> scores = evaluator(problem, mc.descend(optax.sgd(0.25), steps=20))
        >>> scores(jnp.array(0.0), jnp.array([2.0, 4.0])).tolist()
        [1.0, 4.0]
    """
    if metric is not None:
        check_arity("metric", metric, problem.arguments)
    layout = Layout(resolve_mesh(mesh))
    sharded, axis = layout.shard_phi(problem), layout.task_axis

    def one(theta: PyTree, task: PyTree, key: Key) -> Float[Array, ""]:
        theta, z = problem_inputs(features, theta, task)
        check_shapes(Loss(problem, theta, z, key))
        end = solve_inner(sharded, solver, theta, z, key)
        if metric is None:
            return Loss(problem, theta, z, key).with_state(end.model).outer(end.phi)
        state = () if problem.state is None else (end.model,)
        return metric(end.phi, theta, z, *state)

    @jax.jit
    def score(theta: PyTree, tasks: PyTree, first: Step, seed: UInt32[Array, ""]) -> Array:
        n = _count(tasks)
        keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(first + jnp.arange(n))
        rows, _ = layout.shard_tasks((tasks, keys))
        return layout.replicate(jax.vmap(partial(one, theta), spmd_axis_name=axis)(*rows))[:n]

    @checked
    def scores(theta: Learned, tasks: Arrays, seed: Seed = 0) -> np.ndarray:
        firsts, number = range(0, _count(tasks), batch), np.uint32(seed)
        rows = lambda i: jax.tree.map(lambda leaf: leaf[i : i + batch], tasks)
        with explain_lost_process(), jax.default_matmul_precision(precision):
            theta = layout.put_parameters(theta)
            batches = ((layout.put_replicated(rows(i)), i, number) for i in firsts)
            return np.concatenate([np.asarray(score(theta, *x)) for x in batches])

    return scores


def evaluate(
    problem: Problem,
    solver: SolverLike,
    theta: PyTree,
    tasks: PyTree,
    *,
    seed: Seed = 0,
    metric: Metric | None = None,
    batch: Count = 100,
    features: Features | None = None,
    mesh: Mesh | None = None,
    precision: Precision = "highest",
) -> np.ndarray:
    """How well each of `tasks` is learned; see `evaluator`, which does not compile at each call.

    Example:
        >>> import jax.numpy as jnp, optax, metacontrast as mc
        >>> problem = mc.Problem(
        ...     init=lambda theta, task: theta,
        ...     inner=lambda phi, theta, task: (phi - task) ** 2,
        ...     outer=lambda phi, theta, task: phi**2,
        ... )
        >>> solver = mc.descend(optax.sgd(0.5), steps=1)
        >>> evaluate(problem, solver, jnp.array(0.0), jnp.array([1.0, 3.0])).tolist()
        [1.0, 9.0]
    """
    scores = evaluator(
        problem, solver, metric=metric, batch=batch, features=features, mesh=mesh,
        precision=precision,
    )  # fmt: skip
    return scores(theta, tasks, seed)


def _count(tasks: PyTree) -> int:
    counts = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(tasks)}
    if len(counts) != 1 or counts & {(), (0,)}:
        raise ValueError(
            "tasks: every leaf must have the same first axis, one row a task, and at least one "
            f"row; the first dimensions are {sorted(counts)}. Stack them, as jax.vmap(sample_task) "
            "does."
        )
    return int(counts.pop()[0])
