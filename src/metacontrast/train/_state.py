"""What a meta-training run carries from one meta-step to the next."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .._estimator._base import Phases
from .._types import PyTree
from ._layout import Layout


class MetaState(NamedTuple):
    """What a meta-step changes: theta, and what is kept beside it.

    Attributes:
        theta: the last one.
        moments: the optimiser's state.
        average: of the thetas, if one is kept.
        phases: where those of the long task stopped, with a warm start.
        usual: the largest number of the gradients so far: of each meta-step its mean over tasks.
        streak: how many meta-steps in a row had more than half of their tasks flagged.
    """

    theta: PyTree
    moments: PyTree
    average: PyTree = None
    phases: Phases | None = None
    usual: Float[Array, ""] | float = 0.0
    streak: Int[Array, ""] | int = 0


class Snapshot(NamedTuple):
    """What a checkpoint holds: how far the run is, and the best theta so far."""

    step: int
    state: MetaState
    best: PyTree
    best_loss: float = math.inf

    @property
    def theta(self) -> PyTree:
        """What the run would return now: the average, if one is kept."""
        return self.state.theta if self.state.average is None else self.state.average

    @property
    def phi(self) -> PyTree:
        """Where the learner of the long task is; None if each task starts anew."""
        return None if self.state.phases is None else self.state.phases.free.phi

    def on_devices(self, layout: Layout) -> Snapshot:
        """The same, ready to go on, also after a round trip through a checkpoint."""
        state = layout.put_parameters(copy_arrays(self.state))
        return Snapshot(int(self.step), state, self.best, float(self.best_loss))


def copy_arrays(tree: PyTree) -> PyTree:
    """A copy in JAX arrays, since the loop donates its buffers.

    Without weak types: a checkpoint holds none, and must continue as the very same program.
    """

    def copy(leaf: PyTree) -> jax.Array:
        dtype = jnp.result_type(leaf)
        return jnp.array(leaf, None if jnp.issubdtype(dtype, jax.dtypes.prng_key) else dtype)

    return jax.tree.map(copy, tree)
