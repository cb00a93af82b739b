"""Bad input, found before any compute is spent, with what to do about it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ._problem import Problem, PyTree, Task


def check(problem: Problem, theta: PyTree, task: PyTree) -> None:
    """Raise a `ValueError` if `problem` cannot be learned and judged on this `task`.

    Looked at: theta and phi have floating leaves only; both losses are scalars; train and test
    data fit each other (where the task is a `Task`); and, if the arguments are concrete arrays,
    both losses are finite where learning starts. Every estimator makes the checks on shapes.
    """
    shapes(problem, theta, task)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((theta, task))):
        return

    @jax.jit  # one compilation, where there would be one an operation
    def first(theta: PyTree, task: PyTree) -> tuple[jax.Array, jax.Array]:
        loss, phi = problem.loss(theta, task), problem.init(theta, task)
        return loss(phi), loss.outer(phi)

    for name, value in zip(("inner", "outer"), first(theta, task), strict=True):
        if not jnp.isfinite(value):
            raise ValueError(
                f"problem.{name}: the loss is {value} where learning starts; look for NaN or "
                "infinity in the task's data and in theta, or for logarithms and divisions of 0."
            )


def shapes(problem: Problem, theta: PyTree, task: PyTree) -> None:
    """The part of `check` that needs no arithmetic: types and shapes, at trace time."""
    _floating("theta", theta)
    if isinstance(task, Task):
        _halves(task)
    phi = jax.eval_shape(problem.init, theta, task)
    _floating("phi (what problem.init returns)", phi)
    z = jax.eval_shape(problem.encoded, theta, task)
    for name in ("inner", "outer"):
        value = jax.eval_shape(getattr(problem, name), phi, theta, z)
        if getattr(value, "shape", None) != () or not jnp.issubdtype(value.dtype, jnp.floating):
            raise ValueError(
                f"problem.{name}: must return one floating number, not {value}; take the mean or "
                "the sum over examples."
            )


def _floating(name: str, tree: PyTree) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        dtype: Any = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(
                f"{name}: leaf {jax.tree_util.keystr(path) or 'itself'} is {dtype}, but only "
                "floating leaves can be learned; convert it, or keep it in the task."
            )


def _halves(task: Task) -> None:
    for name, (x, y) in (("train", task.train), ("test", task.test)):
        counts = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves((x, y))}
        if len(counts) > 1:
            raise ValueError(
                f"task.{name}: x and y must have as many examples (rows) as each other, but their "
                f"first dimensions are {sorted(counts)}."
            )
    for name in ("x", "y"):
        train, test = getattr(task.train, name), getattr(task.test, name)
        if (a := _rows(train)) != (b := _rows(test)):
            raise ValueError(
                f"task.test.{name}: one example is {b}, but one of task.train.{name} is {a}; "
                "the two must have the same structure, shape and type but for the number of rows."
            )


def _rows(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: f"{jnp.result_type(leaf)}{list(jnp.shape(leaf)[1:])}", tree)
