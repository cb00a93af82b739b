"""phi as one vector, for solvers that do linear algebra."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from .._loss import Loss
from .._types import PyTree, Scalar


class Flat(NamedTuple):
    """A loss as a function of a vector, where that vector is, and the way back to a tree."""

    loss: Callable[[Float[Array, " n"]], Scalar]
    x: Float[Array, " n"]
    unravel: Callable[[Float[Array, " n"]], PyTree]

    def slope(self, x: Float[Array, " n"]) -> Float[Array, " n"]:
        """The gradient at x."""
        return jax.grad(self.loss)(x)


def flat(loss: Loss, phi: PyTree) -> Flat:
    """The loss around `phi`."""
    x, unravel = ravel_pytree(phi)
    return Flat(lambda x: loss(unravel(x)), x, unravel)
