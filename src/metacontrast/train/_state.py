"""What a meta-training run carries from one meta-step to the next."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .._estimator._base import Phases
from .._types import PyTree
from ._layout import Layout, to_host


class MetaState(NamedTuple):
    """What a meta-step changes: theta, and what is kept beside it.

    Attributes:
        theta: the last one.
        moments: the optimiser's state.
        average: of the thetas, if one is kept.
        phases: where those of the long task stopped, with a warm start.
        usual: the largest number of the gradients so far: of each meta-step its mean over tasks.
        streak: how many meta-steps in a row had more than half of their tasks flagged.
        rollbacks: how often the run went back to its best look, each time at half the outer rate;
            None if it never does.
    """

    theta: PyTree
    moments: PyTree
    average: PyTree = None
    phases: Phases | None = None
    usual: Float[Array, ""] | float = 0.0
    streak: Int[Array, ""] | int = 0
    rollbacks: Int[Array, ""] | None = None


class Snapshot(NamedTuple):
    """What a checkpoint holds.

    Attributes:
        step: how far the run is.
        state: what the next meta-step starts from.
        best: theta at the best look so far.
        best_loss: the loss there; infinite if no look had a finite one.
        best_step: the meta-step of that look, 0 at the start; -1 if there was none.
        start_loss: of the validation at the start; NaN if there was none.
        kept: the state at the best look, if the run may go back to it.
    """

    step: int
    state: MetaState
    best: PyTree
    best_loss: float = math.inf
    best_step: int = -1
    start_loss: float = math.nan
    kept: MetaState | None = None

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
        return self._replace(
            step=int(self.step),
            state=layout.put_parameters(copy_arrays(self.state)),
            best_loss=float(self.best_loss),
            best_step=int(self.best_step),
            start_loss=float(self.start_loss),
        )

    def looked_at(self, loss: float) -> Snapshot:
        """The same, with what is kept of it if this loss is the best so far."""
        if not (math.isfinite(loss) and loss < self.best_loss):
            return self
        # Copies, since the next dispatch overwrites the buffers.
        kept = None if self.kept is None else to_host(self.state)
        best, step = to_host(self.theta), self.step
        return self._replace(best=best, best_loss=loss, best_step=step, kept=kept)

    def rolled_back(self, layout: Layout) -> Snapshot:
        """The same, with the state of the best look, at half the outer rate."""
        assert self.kept is not None and self.state.rollbacks is not None
        n = jnp.asarray(int(self.state.rollbacks) + 1, jnp.int32)
        state = self.kept._replace(rollbacks=n, streak=jnp.zeros((), jnp.int32))
        return self._replace(state=layout.put_parameters(copy_arrays(state)))


def copy_arrays(tree: PyTree) -> PyTree:
    """A copy in JAX arrays, since the loop donates its buffers.

    Without weak types: a checkpoint holds none, and must continue as the very same program.
    """

    def copy(leaf: PyTree) -> jax.Array:
        dtype = jnp.result_type(leaf)
        return jnp.array(leaf, None if jnp.issubdtype(dtype, jax.dtypes.prng_key) else dtype)

    return jax.tree.map(copy, tree)
