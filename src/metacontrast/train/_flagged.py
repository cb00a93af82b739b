"""Meta-gradients that say themselves what is wrong with them: counted, warned of, stopped at."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from .._flags import REMEDIES, Flags
from .._types import Aux
from .._warn import warn

# A run stops where more than half of the tasks of so many meta-steps in a row were flagged.
PATIENCE = 10
NAMES = Flags._fields
STOPPING = NAMES  # the flags that stop it: one that is left out is only counted and warned of


class FlaggedError(ArithmeticError):
    """Meta-training follows gradients most of which say that they are wrong."""


class Seen(NamedTuple):
    """Of a task, or counted over several.

    Attributes:
        tasks: whether any flag is up.
        stopping: whether any of `STOPPING` is.
        flags: each of them, in the order of `Flags`.
        followed: the same, of tasks that entered the mean.
    """

    tasks: Int[Array, ""]
    stopping: Int[Array, ""]
    flags: Int[Array, " flags"]
    followed: Int[Array, " flags"]


def seen(aux: Aux, is_learned: Bool[Array, ""]) -> Seen:
    """What the meta-gradient of a task says of itself; an aux without flags says nothing."""
    flags = aux.get("flags", Flags())
    up = jnp.stack([jnp.asarray(flag, int) for flag in flags])
    stopping = [jnp.asarray(getattr(flags, name)) for name in STOPPING]
    any_stopping = jnp.any(jnp.stack(stopping)) if stopping else jnp.zeros((), bool)
    return Seen(jnp.max(up), any_stopping.astype(int), up, up * is_learned)


def next_streak(streak: Array | int, stopping: Array, tasks: int) -> Int[Array, ""]:
    """How many meta-steps in a row more than half of the tasks were flagged, after one more."""
    return jnp.where(2 * stopping > tasks, streak + 1, 0).astype(jnp.int32)


def check_flagged(
    streaks: np.ndarray, flags: np.ndarray, t: int, tasks: int, limit: int | None
) -> None:
    """Raise a `FlaggedError` for the first of the meta-steps after `t` whose streak is too long.

    Args:
        streaks: of each of them.
        flags: the counts of each flag, a row a meta-step.
        t: how many meta-steps there were before.
        tasks: of a meta-step.
        limit: the streak that is too long; None if none is.
    """
    if limit is None or not (streaks >= limit).any():
        return
    i = int(np.argmax(streaks >= limit))
    since = f"{limit} meta-steps in a row" if limit > 1 else "this one"
    raise FlaggedError(
        f"meta-step {t + i + 1}: more than half of the tasks of {since} are flagged; of the last "
        f"{tasks}: {_remedies(flags[i])}. To go on all the same, resume with on_flag='warn'."
    )


def warn_flagged(followed: np.ndarray, of: str) -> bool:
    """Warn of the flags of tasks that entered the mean, and say whether there were any.

    Args:
        followed: how many of each flag.
        of: of which tasks they are.
    """
    if not followed.any():
        return False
    warn(
        f"Of {of} some are flagged, which makes their meta-gradients doubtful: "
        f"{_remedies(followed)}. (Said once; the metrics count on.)",
    )
    return True


def counts(flags: np.ndarray) -> dict[str, int]:
    """Those that were raised, by name; the most frequent ones first."""
    raised = {name: int(n) for name, n in zip(NAMES, flags, strict=True) if n}
    return dict(sorted(raised.items(), key=lambda item: -item[1]))


def _remedies(flags: np.ndarray) -> str:
    return ". ".join(f"{name} ({n}): {REMEDIES[name]}" for name, n in counts(flags).items())
