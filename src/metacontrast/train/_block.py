"""The meta-steps from one checkpoint to the next."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from .._problem import PyTree
from ._mesh import held, placed
from ._meta_step import Advance, State, owned

Valid = Callable[[PyTree], Mapping[str, Any]]
Line = dict[str, Any]
_SHOWN = ("meta_loss", "diverged")


class Reached(NamedTuple):
    """What a checkpoint holds: how far the run is, and the best theta so far."""

    step: int
    state: State
    best: PyTree
    best_loss: float = math.inf

    @property
    def theta(self) -> PyTree:
        """What the run would return now: the average, if one is kept."""
        return self.state.theta if self.state.average is None else self.state.average

    def continued(self, mesh: Mesh | None) -> Reached:
        """The same after a round trip through a checkpoint, which knows only arrays."""
        state = placed(owned(self.state), mesh)
        return Reached(int(self.step), state, self.best, float(self.best_loss))


def block(advance: Advance, at: Reached, n: int, chunk: int, bar: Any) -> tuple[Reached, Line]:
    """Take `n` meta-steps, `chunk` in a dispatch, and give the line of their metrics."""
    began = time.perf_counter()
    state, end, taken = at.state, at.step + n, []
    for t in range(at.step, end, chunk):
        size = min(chunk, end - t)
        state, metrics = advance(state, t, size)
        taken.append(metrics)
        bar.update(size)
        bar.set_postfix({k: f"{v[-1]:.4g}" for k, v in metrics.items() if k in _SHOWN})
    joined = {name: np.concatenate([metrics[name] for metrics in taken]) for name in taken[0]}
    line: Line = {"step": end, "meta_loss": None}  # the order in which they are written
    line |= {name: _number(np.mean(values, dtype=np.float64)) for name, values in joined.items()}
    line |= {"diverged": int(joined["diverged"].sum()), "seconds": time.perf_counter() - began}
    return at._replace(step=end, state=state), line


def validated(valid: Valid | None, at: Reached, line: Line, bar: Any) -> tuple[Reached, Line]:
    """Judge the theta reached: its scores join the line, and the best theta so far is kept."""
    if valid is None:
        return at, line
    # A copy, since the next dispatch overwrites the buffers of this theta; and of one device, so
    # that `valid` may be any code.
    theta = held(at.theta)
    scores = {name: float(x) for name, x in valid(jax.tree.map(jnp.asarray, theta)).items()}
    if "loss" not in scores:
        raise ValueError(
            f"valid: returned {sorted(scores)}, without the 'loss' that selects the best theta; "
            "add one (lower is better)."
        )
    bar.set_description(f"valid {scores['loss']:.4g}")
    if scores["loss"] < at.best_loss:
        at = at._replace(best=theta, best_loss=scores["loss"])
    return at, line | {f"valid_{name}": _number(x) for name, x in scores.items()}


def _number(x: Any) -> float | None:
    # JSON has no NaN or infinity.
    return float(x) if math.isfinite(x) else None
