"""How well held-out tasks are learned."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from .._check import shapes
from .._problem import Problem, PyTree
from .._solve import Solver, learn, positive
from ._mesh import axis_of_tasks, copied, placed, resolved, split_phi, spread, whole
from ._processes import together

Metric = Callable[[PyTree, PyTree, PyTree], Any]


def evaluator(
    problem: Problem,
    solve: Solver,
    *,
    metric: Metric | None = None,
    batch: int = 100,
    mesh: Mesh | None = None,
) -> Callable[..., np.ndarray]:
    """`scores(theta, tasks, seed=0)`: learn each task by the free phase alone, and judge it.

    Build it once and call it often: it compiles once for whole batches of tasks, however many
    there are, and once for what is left over.

    Args:
        problem: what is learned.
        solve: how it is learned.
        metric: `(phi, theta, task) -> number`. Default: the outer loss.
        batch: how many tasks are learned at a time, which bounds the memory.
        mesh: the devices that those tasks are spread over; see `meta_train`.

    Returns:
        `scores`. Its `tasks` are a task whose every leaf has one more axis, the first; it returns
        one value a task, in order. Values that are not finite stay as they are: count them.

    Raises:
        ValueError: batch < 1; from `scores`, leaves of tasks that differ in number, and bad input
            (see `check`).

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
    positive("batch", batch)
    mesh = resolved(mesh)
    split = split_phi(problem, mesh)

    def one(theta: PyTree, task: PyTree, key: jax.Array) -> Any:
        shapes(problem, theta, task)
        phi = learn(split, solve, theta, task, key).phi
        return problem.loss(theta, task).outer(phi) if metric is None else metric(phi, theta, task)

    @jax.jit
    def some(theta: PyTree, tasks: PyTree, first: Any, seed: Any) -> jax.Array:
        n = _number_of(tasks)
        keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(first + jnp.arange(n))
        rows, _ = spread((tasks, keys), mesh)
        each = jax.vmap(partial(one, theta), spmd_axis_name=axis_of_tasks(mesh))
        return whole(each(*rows), mesh)[:n]

    def scores(theta: PyTree, tasks: PyTree, seed: int = 0) -> np.ndarray:
        firsts = range(0, _number_of(tasks), batch)
        with together():
            theta = placed(theta, mesh)
            part = lambda i: copied(jax.tree.map(lambda leaf: leaf[i : i + batch], tasks), mesh)
            return np.concatenate([np.asarray(some(theta, part(i), i, seed)) for i in firsts])

    return scores


def evaluate(
    problem: Problem,
    solve: Solver,
    theta: PyTree,
    tasks: PyTree,
    *,
    seed: int = 0,
    metric: Metric | None = None,
    batch: int = 100,
    mesh: Mesh | None = None,
) -> np.ndarray:
    """How well each of `tasks` is learned; see `evaluator`, which does not compile at each call.

    Example:
        >>> import jax.numpy as jnp, optax, metacontrast as mc
        >>> problem = mc.Problem(
        ...     init=lambda theta, task: theta,
        ...     inner=lambda phi, theta, task: (phi - task) ** 2,
        ...     outer=lambda phi, theta, task: phi**2,
        ... )
        >>> solve = mc.descend(optax.sgd(0.5), steps=1)
        >>> evaluate(problem, solve, jnp.array(0.0), jnp.array([1.0, 3.0])).tolist()
        [1.0, 9.0]
    """
    return evaluator(problem, solve, metric=metric, batch=batch, mesh=mesh)(theta, tasks, seed)


def _number_of(tasks: PyTree) -> int:
    counts = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(tasks)}
    if len(counts) != 1 or counts & {(), (0,)}:
        raise ValueError(
            "tasks: every leaf must have the same first axis, one row a task, and at least one "
            f"row; the first dimensions are {sorted(counts)}. Stack them, as jax.vmap(draw) does."
        )
    return int(counts.pop()[0])
