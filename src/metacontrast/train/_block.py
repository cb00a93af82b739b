"""The meta-steps from one checkpoint to the next."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from ._collapse import finite
from ._flagged import counts
from ._layout import gather, to_host
from ._meta_step import Dispatch
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
    n: int,
    steps_per_dispatch: int,
    bar: tqdm,
    check: Callable[[Fetched, int], None],
) -> tuple[Snapshot, Line, np.ndarray]:
    """Take `n` meta-steps, some in a dispatch.

    Args:
        dispatch: takes them.
        snapshot: where they start.
        n: how many.
        steps_per_dispatch: how many at a time.
        bar: shows how far they are.
        check: `(metrics, t)` of the meta-steps after the first `t`; raises if the run must end.

    Returns:
        Where they end, the line of their metrics, and the flags that were followed.
    """
    began = time.perf_counter()
    state, end, parts = snapshot.state, snapshot.step + n, []
    for t in range(snapshot.step, end, steps_per_dispatch):
        size = min(steps_per_dispatch, end - t)
        state, metrics = dispatch(state, t, size)
        fetched: Fetched = jax.device_get(metrics)
        check(fetched, t)
        parts.append(fetched)
        bar.update(size)
        bar.set_postfix({name: f"{fetched[name][-1]:.4g}" for name in _SHOWN})
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    total = {name: joined.pop(name).sum(axis=0) for name in _COUNTS}
    line: Line = {"step": end, "meta_loss": None}  # the order in which they are written
    means = {name: np.mean(x, dtype=np.float64) for name, x in joined.items() if name not in _OWN}
    line |= {name: finite(x) for name, x in means.items()}
    line |= {"diverged": int(total["diverged"]), "flagged": int(total["flagged"])}
    line |= {"flags": counts(total["flags"]), "seconds": time.perf_counter() - began}
    return snapshot._replace(step=end, state=state), line, total["followed"]


def run_validation(validate: Validate, snapshot: Snapshot, bar: tqdm) -> dict[str, float]:
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
    bar.set_description(f"valid {scores['loss']:.4g}")
    return scores
