"""The meta-steps from one checkpoint to the next."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from ._collapse import finite
from ._flagged import counts
from ._folder import Block
from ._layout import gather, to_host
from ._meta_step import Dispatch
from ._progress import Progress
from ._state import Snapshot

# `theta -> scores`, or with a warm start `(theta, phi) -> scores`; any numbers, "loss" among them.
Validate: TypeAlias = Callable[..., Mapping[str, Any]]
Line: TypeAlias = dict[str, Any]  # of the metrics
Fetched: TypeAlias = dict[str, np.ndarray]  # metrics, one row a meta-step
_SHOWN = ("meta_loss", "diverged", "flagged")
_COUNTS = ("diverged", "flagged", "flags", "followed")
_OWN = ("trouble", "streak")  # of the loop itself


def run_block(
    dispatch: Dispatch,
    snapshot: Snapshot,
    block: Block,
    n: int,
    steps_per_dispatch: int,
    progress: Progress,
    check: Callable[[Fetched, int], None],
    is_stopped: Callable[[], bool],
) -> tuple[Snapshot, Block]:
    """Take what is left of a block of `n` meta-steps, some in a dispatch.

    Args:
        dispatch: takes them.
        snapshot: where they start.
        block: what of it is done.
        n: how many meta-steps it has.
        steps_per_dispatch: how many are taken at a time.
        progress: shows how far they are.
        check: `(metrics, t)` of the meta-steps after the first `t`; raises if the run must end.
        is_stopped: whether to stop after a dispatch.

    Returns:
        Where they end, and the block, whole unless it was stopped.
    """
    began = time.perf_counter()
    state, end, parts = snapshot.state, snapshot.step - block.steps + n, [block.metrics]
    step = snapshot.step
    while step < end and not is_stopped():
        size = min(steps_per_dispatch, end - step)
        state, metrics = dispatch(state, step, size)
        fetched: Fetched = jax.device_get(metrics)
        check(fetched, step)
        parts.append(fetched)
        step += size
        progress.advance(size, {name: fetched[name][-1] for name in _SHOWN})
    parts = [part for part in parts if part]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in (parts or [{}])[0]}
    seconds = block.seconds + time.perf_counter() - began
    done = Block(joined, seconds, block.steps + step - snapshot.step)
    return snapshot._replace(step=step, state=state), done


def summary(block: Block, end: int) -> tuple[Line, np.ndarray]:
    """The line of the metrics of a block that ends there, and the flags that were followed."""
    total = {name: block.metrics[name].sum(axis=0) for name in _COUNTS}
    others = {name: x for name, x in block.metrics.items() if name not in (*_COUNTS, *_OWN)}
    line: Line = {"step": end, "meta_loss": None}  # the order in which they are written
    line |= {name: finite(np.mean(x, dtype=np.float64)) for name, x in others.items()}
    line |= {"diverged": int(total["diverged"]), "flagged": int(total["flagged"])}
    line |= {"flags": counts(total["flags"]), "seconds": block.seconds}
    return line, total["followed"]


def run_validation(validate: Validate, snapshot: Snapshot, progress: Progress) -> dict[str, float]:
    """Judge the theta that would be returned now: its scores, "loss" among them."""
    # On one device, so that `validate` may be any code. There may be no room for a copy of phi.
    arguments = [jax.tree.map(jnp.asarray, to_host(snapshot.theta))]
    arguments += [] if snapshot.phi is None else [gather(snapshot.phi)]
    scores = {name: float(x) for name, x in validate(*arguments).items()}
    if "loss" not in scores:
        raise ValueError(
            f"validate: returned {sorted(scores)}, without the 'loss' that selects the best theta; "
            "add one (lower is better)."
        )
    progress.validated(scores["loss"])
    return scores
