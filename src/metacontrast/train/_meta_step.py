"""Several meta-steps in one dispatch, from which diverged tasks are left out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from .._meta_loss import Estimator
from .._problem import Problem, PyTree
from .._solve import Solver
from ._mesh import constrained, split_phi, whole
from ._reduce import summed

Draw = Callable[[jax.Array], PyTree]


class DivergedError(ArithmeticError):
    """Meta-training cannot go on: all tasks of a meta-step diverged, or its update of theta did."""


class State(NamedTuple):
    """What a meta-step changes: theta, the optimiser's state and, if kept, theta's average."""

    theta: PyTree
    optimizer: PyTree
    average: PyTree = None


Advance = Callable[[State, int, int], tuple[State, dict[str, np.ndarray]]]


def start(theta: PyTree, optimizer: optax.GradientTransformation, averaged: bool) -> State:
    """The state before the first meta-step."""
    theta = owned(theta)
    return State(theta, owned(optimizer.init(theta)), owned(theta) if averaged else None)


def owned(tree: PyTree) -> PyTree:
    """A copy in JAX arrays, since the loop donates its buffers.

    Without weak types: a checkpoint holds none, and must continue as the very same program.
    """

    def own(leaf: Any) -> jax.Array:
        dtype = jnp.result_type(leaf)
        return jnp.array(leaf, None if jnp.issubdtype(dtype, jax.dtypes.prng_key) else dtype)

    return jax.tree.map(own, tree)


def task_keys(seed: int, t: Any, tasks: int) -> tuple[jax.Array, jax.Array]:
    """The keys of meta-step `t`, of (seed, t) alone: to draw each task, and to learn each."""
    drawing, learning = jax.random.split(jax.random.fold_in(jax.random.key(seed), t))
    return jax.random.split(drawing, tasks), jax.random.split(learning, tasks)


def stepper(
    problem: Problem,
    solve: Solver,
    estimator: Estimator,
    draw: Draw,
    optimizer: optax.GradientTransformation,
    tasks: int,
    seed: int,
    polyak: int | None,
    at_a_time: int | None = None,
    mesh: Mesh | None = None,
) -> Advance:
    """`advance(state, t, n) -> (state, metrics)`: the `n` meta-steps that follow the first `t`.

    The state is donated. Each of the metrics is an array with one number a meta-step.
    `advance` raises `DivergedError` if every task of a meta-step diverged, or theta did.
    """
    update = optax.with_extra_args_support(optimizer).update
    problem = split_phi(problem, mesh)

    def one(theta: PyTree, drawing: jax.Array, learning: jax.Array) -> Any:
        task = draw(drawing)
        (loss, said), grad = estimator.value_and_grad(problem, solve, theta, task, learning)
        learned = _finite((loss, grad))
        if problem.encode is None:  # otherwise at the price of encoding the task a second time
            first = problem.loss(theta, task)(problem.init(theta, task))
            learned &= ~grew(first, said.get("inner", first))
        said = {name: _number(x) for name, x in said.items() if jax.tree.leaves(x)}
        return learned, (loss, said, grad)

    def step(state: State, t: jax.Array) -> tuple[State, dict[str, jax.Array]]:
        keys = task_keys(seed, t, tasks)
        n, total = summed(partial(one, state.theta), keys, at_a_time or tasks, mesh)
        loss, said, grad = jax.tree.map(lambda x: x / jnp.maximum(n, 1), total)
        updates, moments = update(grad, state.optimizer, state.theta, value=loss)
        theta = optax.apply_updates(state.theta, updates)
        metrics = said | {"meta_loss": loss, "diverged": tasks - n}
        metrics["good"] = (n > 0) & _finite(theta)
        moved = State(theta, moments, _averaged(state.average, theta, t, polyak))
        return constrained(moved, mesh), whole(metrics, mesh)

    @partial(jax.jit, static_argnums=2, donate_argnums=0)
    def chunk(state: State, t: Any, n: int) -> tuple[State, dict[str, jax.Array]]:
        return jax.lax.scan(step, state, t + jnp.arange(n))

    def advance(state: State, t: int, n: int) -> tuple[State, dict[str, np.ndarray]]:
        state, metrics = chunk(state, t, n)
        metrics = jax.device_get(metrics)
        _stop_unless(metrics.pop("good"), metrics["diverged"] == tasks, t)
        return state, metrics

    return advance


def _finite(tree: PyTree) -> jax.Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def grew(first: Any, last: Any) -> Any:
    """Whether the inner loss ended far above where it started: divergence that is still finite."""
    return last > first + 10 * (abs(first) + 1e-6)


def _number(said: PyTree) -> jax.Array:
    """One number, of a diagnostic that may be a list (one entry a nudged phase)."""
    return jnp.mean(jnp.stack([jnp.mean(x) for x in jax.tree.leaves(said)]))


def _averaged(average: PyTree, theta: PyTree, t: jax.Array, polyak: int | None) -> PyTree:
    if polyak is None:
        return None
    n = t + 2 - polyak  # how many thetas the average is of; before that it follows theta
    return jax.tree.map(lambda a, x: jnp.where(n > 1, a + (x - a) / n, x), average, theta)


def _stop_unless(good: np.ndarray, none_learned: np.ndarray, t: int) -> None:
    if good.all():
        return
    i = int(np.argmin(good))
    if none_learned[i]:
        raise DivergedError(
            f"meta-step {t + i + 1}: every task diverged. Lower the inner learning rate, take "
            "fewer inner steps, or clip the inner gradient (optax.clip_by_global_norm). Or lower "
            "|beta|: a negative nudge, which scheme='symmetric' has, minimises L_in - |beta| L_out "
            "and can make it unbounded below. With Implicit('cg'), add damping: it gives NaN where "
            "the Hessian has negative curvature."
        )
    raise DivergedError(
        f"meta-step {t + i + 1}: theta is not finite after the update. Lower the learning rate of "
        "`optimizer`, or clip in it (optax.chain(optax.clip_by_global_norm(1.0), ...))."
    )
