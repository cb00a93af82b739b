"""A problem as a function of the weights that its task gives to examples, and of nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.interpreters.partial_eval import dce_jaxpr
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ._loss import Loss
from ._problem import InverseCurvature, LossFunction, Objective, Problem, Split, objective
from ._solver._base import start_of
from ._types import Key, PyTree, Scalar

Select: TypeAlias = Callable[[PyTree], Array]


class Weighted(NamedTuple):
    """A task apart: its weights, and the rest, which nothing can be differentiated by."""

    weights: Float[Array, "..."]
    held: PyTree


class _Bits(eqx.Module):
    """A floating leaf as whole numbers: estimators take derivatives by all leaves that float."""

    bits: Array
    dtype: DTypeLike = eqx.field(static=True)


def weighted(z: PyTree, select: Select) -> Weighted:
    """`z`, of which the weights alone are to be differentiated by."""
    weights = jnp.asarray(select(z))
    return Weighted(weights, jax.tree.map(_held, eqx.tree_at(select, z, 0)))


def _held(leaf: PyTree) -> PyTree:
    dtype = jnp.result_type(leaf)
    if not jnp.issubdtype(dtype, jnp.floating) or not jnp.ndim(leaf):
        return leaf  # a single number costs nothing, and one of Python's is weakly typed
    whole = jnp.dtype(f"uint{8 * dtype.itemsize}")
    return _Bits(jax.lax.bitcast_convert_type(jnp.asarray(leaf), whole), dtype)


def _whole(task: Weighted, select: Select) -> PyTree:
    is_bits = lambda leaf: isinstance(leaf, _Bits)
    freed = lambda leaf: jax.lax.bitcast_convert_type(leaf.bits, leaf.dtype)
    held = jax.tree.map(lambda x: freed(x) if is_bits(x) else x, task.held, is_leaf=is_bits)
    return eqx.tree_at(select, held, task.weights)


def of_weights(problem: Problem, select: Select) -> Problem:
    """The problem of `Weighted` tasks, whose views are such too."""
    whole, sample, state = partial(_whole, select=select), problem.sample, problem.state

    def view(task: Weighted, key: Key) -> Weighted:
        assert sample is not None
        return weighted(sample(whole(task), key), select)

    return replace(
        problem,
        init=lambda theta, task: problem.init(theta, whole(task)),
        inner=_Over(problem.inner, whole),
        outer=_Over(problem.outer, whole),
        sample=None if sample is None else view,
        state=None if state is None else lambda theta, task: state(theta, whole(task)),
    )


@dataclass(frozen=True)
class _Over(Objective):
    """A loss of whole tasks, with what it offers to solvers."""

    loss: LossFunction
    whole: Callable[[Weighted], PyTree]

    def __call__(self, phi: PyTree, theta: PyTree, z: PyTree, *state: PyTree) -> PyTree:
        """Its value; with the state that it leaves, where there is one."""
        return self.loss(phi, theta, self.whole(z), *state)

    def split(self, phi: PyTree, theta: PyTree, z: PyTree) -> Split | None:
        """Its own."""
        return objective(self.loss).split(phi, theta, self.whole(z))

    def inverse_curvature(
        self, theta: PyTree, z: PyTree, damping: float = 0.0
    ) -> InverseCurvature | None:
        """Its own."""
        return objective(self.loss).inverse_curvature(theta, self.whole(z), damping)


def check_weights(loss: Loss, select: Select) -> None:
    """Raise unless `select` picks out floating weights of z on which the inner loss depends."""
    weights = select(loss.z)
    if not jnp.issubdtype(jnp.result_type(weights), jnp.floating):
        raise ValueError(
            f"weights: must be floating, not {jnp.result_type(weights)}; put jnp.ones(n) into z."
        )
    try:
        eqx.tree_at(select, loss.z, weights)
    except Exception as error:
        raise ValueError(
            "weights: must pick one leaf out of z, `lambda z: z['weights']` say, and compute "
            f"nothing ({error})."
        ) from error

    def inner(weights: Array) -> Scalar:
        at = loss.at(loss.theta, eqx.tree_at(select, loss.z, weights))
        start = start_of(loss)
        at = at.view(0) if at.samples else at
        return at.with_state(start.model).inner(start.phi)

    program = jax.make_jaxpr(inner)(weights).jaxpr
    if not dce_jaxpr(program, [True])[1][0]:
        raise ValueError(
            "weights: the inner loss does not depend on them, so that all influence would be 0; "
            "let problem.inner multiply the loss of each example by its weight, and problem.sample "
            "hand on the weights of those that it draws."
        )
