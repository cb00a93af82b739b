"""Theta and the task in types that hold a difference of gradients."""

from __future__ import annotations

from functools import reduce

import jax
import jax.numpy as jnp

from ._loss import Loss
from ._types import PyTree


def wide_arguments(loss: Loss, phi: PyTree) -> tuple[PyTree, PyTree]:
    """The same theta, and z where gradients by it are wanted, as numbers of wider types.

    A derivative has the type of what it is by. Where that is narrow, each phase's would be rounded
    to it, by the loss itself on the way back, before the phases are contrasted; and the difference,
    of the size of beta, would be left with few digits or none. So the losses are differentiated at
    the same numbers in float32 at least, and in phi's types at least, and the difference alone is
    rounded. A loss that cannot be taken there (code that asks for two arrays of one type, as a
    convolution does) is differentiated where it is: see `is_wide`.
    """
    wide = _widened(loss, phi)
    return wide if _is_defined(loss, phi, wide) else (loss.theta, loss.z)


def is_wide(loss: Loss, phi: PyTree) -> bool:
    """Whether `wide_arguments` are as wide as phi's contrasts need."""
    return _is_defined(loss, phi, _widened(loss, phi))


def _widened(loss: Loss, phi: PyTree) -> tuple[PyTree, PyTree]:
    # A complex phi is the answer to a complex nudge, with parts as wide as those of a real one.
    real = [jnp.finfo(leaf.dtype).dtype for leaf in jax.tree.leaves(phi)]
    least = reduce(jnp.promote_types, real, jnp.float32)

    def widen(x: PyTree) -> PyTree:
        if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
            return x
        return jnp.asarray(x, jnp.promote_types(jnp.result_type(x), least))

    theta = jax.tree.map(widen, loss.theta)
    return theta, jax.tree.map(widen, loss.z) if loss.by_z else loss.z


def _is_defined(loss: Loss, phi: PyTree, at: tuple[PyTree, PyTree]) -> bool:
    """Whether the loss can be differentiated there, where that is elsewhere."""
    types = [jnp.result_type(x) for x in jax.tree.leaves((loss.theta, loss.z))]
    if types == [jnp.result_type(x) for x in jax.tree.leaves(at)]:
        return True
    value = lambda theta, z: jnp.real(loss.at(theta, z)(phi))
    try:
        jax.eval_shape(jax.grad(value, (0, 1), allow_int=True), *at)
    except (TypeError, ValueError):
        return False
    return True
