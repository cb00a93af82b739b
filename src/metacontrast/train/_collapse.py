"""A meta-training that was well on its way, and lost it: how that is noticed."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from itertools import pairwise
from typing import Any, Literal, TypeAlias

from .._types import PyTree

OnCollapse: TypeAlias = Literal["stop", "rollback", "ignore"]
CHOICES = ("stop", "rollback", "ignore")
# So many looks in a row at a loss far above the best one are a collapse.
PATIENCE = 3
# A rate that is still too high at a thirty-second is not what is wrong.
MOST_ROLLBACKS = 5
# How far losses rise by chance is known from so many looks; and so many times that is far.
RECENT, FAR = 30, 3
# Before so many looks that is not known: losses of freshly drawn tasks are not compared, and others
# are far above where they are so many times as large.
FEW, EARLY = 10, 10


class CollapsedError(ArithmeticError):
    """Meta-training lost what it had learned.

    Attributes:
        best: theta at the best look.
        best_step: its meta-step; 0 is the start.
    """

    best: PyTree
    best_step: int

    def __init__(self, message: str, best: PyTree = None, best_step: int = 0) -> None:
        super().__init__(message)
        self.best, self.best_step = best, best_step


class Looks:
    """The losses of a run, one a look, of which the last few may be far above the best.

    The best is the lowest level that was held for three looks, for a single one may be luck. A loss
    is far above it if it is higher by more than its own size (ten times that before the tenth
    look), by more than half of what was gained, and by more than three times the largest rise from
    one of the last thirty looks to the next; or if it is not finite. What was gained is counted
    from the middle one of the first three looks, since a start may be out of all proportion. A
    constant that is added to a loss is a part of its size.

    Args:
        fresh: the losses are those of freshly drawn tasks, of which no two are alike; they are not
            compared before the tenth look.
    """

    def __init__(self, fresh: bool) -> None:
        self._needed = FEW if fresh else 1
        self._first: list[float] = []
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._held, self._n, self._streak = math.inf, 0, list[float | None]()

    @property
    def is_collapse(self) -> bool:
        """Whether the last looks were far above the best one."""
        return len(self._streak) >= PATIENCE

    def add(self, loss: float | None) -> None:
        """Look once more; None is a loss that is not finite."""
        if self._is_far(loss):
            self._streak.append(loss)
            return
        for x in (*self._streak, loss):  # what it has come back from was a part of its course
            if x is not None:
                self._take(x)
        self._streak.clear()

    def forgive(self) -> None:
        """Forget the last looks: the run has gone back to the best one."""
        self._streak.clear()

    def _take(self, loss: float) -> None:
        self._n += 1
        self._recent.append(loss)
        highest = max(list(self._recent)[-PATIENCE:])
        self._held = min(self._held, highest) if self._n > PATIENCE else highest
        if len(self._first) < 3:
            self._first.append(loss)

    def _is_far(self, loss: float | None) -> bool:
        if loss is None or self._n < self._needed:
            return loss is None and self._n > 0
        gained = sorted(self._first)[len(self._first) // 2] - self._held
        rise = max((b - a for a, b in pairwise(self._recent)), default=0.0)
        size = (1 if self._n >= FEW else EARLY) * abs(self._held)
        return not loss <= self._held + max(size, gained / 2, FAR * rise)


def looks_of(lines: Iterable[dict[str, Any]], validated: bool, start: float) -> Looks:
    """Those of the lines of a run.

    Args:
        lines: of its metrics.
        validated: whether it is validated.
        start: the validation loss before the first meta-step.
    """
    looks, rollbacks = Looks(fresh=not validated), 0
    if validated:
        looks.add(finite(start))
    for line in lines:
        looks.add(line["valid_loss" if validated else "meta_loss"])
        if line.get("rollbacks", 0) > rollbacks:
            rollbacks = line["rollbacks"]
            looks.forgive()
    return looks


def collapse(
    step: int, loss: float | None, best_loss: float, best_step: int, best: PyTree, rollbacks: int
) -> CollapsedError:
    """What is raised at a collapse, after so many rollbacks."""
    now = "not finite" if loss is None else f"{loss:.4g}"
    tried = f" It was rolled back {rollbacks} times in vain." if rollbacks else ""
    back = (
        "" if rollbacks else " In a new folder, on_collapse='rollback' goes back there by itself."
    )
    return CollapsedError(
        f"meta-step {step}: the loss is {now}, and was far above the {best_loss:.4g} of meta-step "
        f"{best_step} at {PATIENCE} looks in a row.{tried} Lower the learning rate of `optimizer`, "
        "or clip in it (optax.chain(optax.clip_by_global_norm(1.0), ...)). The theta of meta-step "
        f"{best_step} is the error's `best`.{back} To go on from here, resume with "
        "on_collapse='ignore'.",
        best,
        best_step,
    )


def finite(x: float) -> float | None:
    """The number, or None: JSON has no NaN or infinity."""
    return float(x) if math.isfinite(x) else None
