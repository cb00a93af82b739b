"""How a run stands, told from its folder alone: nothing of the run itself is asked or held up."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from ..train import RESULT
from ..train._checkpoints import Checkpoints
from ..train._folder import CHECKPOINTS
from ..train._lock import LOCK
from ._runs import Run, number, read_run

# running: its process is alive; ended: it took its last meta-step; interrupted: it was told to end;
# lost: its process is gone, by an error, a kill or a power cut; unknown: it is on another machine.
State: TypeAlias = Literal["running", "ended", "interrupted", "lost", "unknown"]
BLOCKS = "▁▂▃▄▅▆▇█"
_RECENT = 5  # looks by which the rate is told


@dataclass(frozen=True)
class Glance:
    """A run as it stands.

    Attributes:
        name: its folder.
        state: see `State`.
        step: meta-steps taken, as of the last look or checkpoint.
        steps: how many there are to be; 0 if it does not say.
        rate: meta-steps a second, validation left out; NaN before it is known.
        losses: the meta-loss and the validation loss of each look, NaN where there was none.
        diverged: tasks that diverged so far.
        flags: how often each was raised so far.
        checkpoint_age: seconds since the last checkpoint; NaN without one.
        problem: what could not be read, or "".
    """

    name: str
    state: State
    step: int
    steps: int
    rate: float
    losses: dict[str, list[float]]
    diverged: int
    flags: dict[str, int]
    checkpoint_age: float
    problem: str = ""

    @property
    def seconds_left(self) -> float:
        """At this rate, validation left out; NaN where there is none."""
        if self.state != "running" or not self.rate > 0 or not self.steps:
            return float("nan")
        return max(0, self.steps - self.step) / self.rate


def glance(folder: Path, now: float | None = None) -> Glance:
    """Look at a run once; a line that is just being written is left for the next look."""
    run = read_run(folder, folder)
    kept = _checkpoints(folder)
    last = max([line["step"] for line in run.lines[-1:]] + [step for step, _, _ in kept[-1:]] + [0])
    steps = int(run.settings["steps"]) if run.settings.get("steps", "").isdigit() else 0
    changed = max((at for _, _, at in kept), default=float("nan"))
    return Glance(
        name=str(folder),
        state=_state(folder, last, steps, any(is_part for _, is_part, _ in kept[-1:])),
        step=last,
        steps=steps,
        rate=rate(run),
        losses={x: [number(y.get(x)) for y in run.lines] for x in ("meta_loss", "valid_loss")},
        diverged=run.diverged,
        flags={x: n for x, n in run.flags.items() if n},
        checkpoint_age=(time.time() if now is None else now) - changed,
        problem=run.problems[0] if run.problems else "",
    )


def rate(run: Run) -> float:
    """Meta-steps a second, by the last looks; not by the first, in which all is compiled."""
    recent = run.lines[-_RECENT - 1 :]
    seconds = sum(number(line.get("seconds")) for line in recent[1:])
    return (recent[-1]["step"] - recent[0]["step"]) / seconds if seconds > 0 else float("nan")


def sparkline(values: Sequence[float], width: int = 24) -> str:
    """The last so many numbers as a line of blocks; a gap where one is not finite.

    Example:
        >>> sparkline([1.0, 2.0, float("nan"), 1.5])
        '▁█ ▄'
    """
    last = np.asarray(values[-width:], float)
    finite = last[np.isfinite(last)]
    if not len(finite):
        return ""
    if finite.min() > 0 and finite.max() > 5 * finite.min():
        last, finite = np.log(last), np.log(finite)
    size = float(np.ptp(finite)) or 1.0
    at = (last - finite.min()) / size * (len(BLOCKS) - 1)
    return "".join(BLOCKS[int(x)] if np.isfinite(x) else " " for x in at)


def _checkpoints(folder: Path) -> list[tuple[int, bool, float]]:
    """Of each checkpoint its step, whether it lies within a block, and when it was written."""
    found = []
    for name in Checkpoints(folder / CHECKPOINTS).names():
        try:
            written = (folder / CHECKPOINTS / name.file).stat().st_mtime
        except OSError:  # it was dropped in between
            continue
        found.append((name.step, name.is_part, written))
    return found


def _state(folder: Path, step: int, steps: int, is_part: bool) -> State:
    is_alive = _is_alive(folder / LOCK)
    is_over = step >= steps > 0 or (not steps and (folder / RESULT).exists())
    if is_over and (not is_alive or (folder / "theta.npz").exists()):
        return "ended"
    if is_alive is None:
        return "unknown"
    if is_alive:
        return "running"
    return "interrupted" if is_part else "lost"


def _is_alive(lock: Path) -> bool | None:
    """Whether the process is there that wrote last; None if it is on another machine.

    The lock itself is not tried: to hold it for a moment could turn away a run that starts then.
    """
    try:
        with lock.open("rb") as file:
            said = file.read(300).decode(errors="replace")
    except OSError:
        return False
    found = re.match(r"process (\d{1,9}) on (\S+)", said)
    if not found:
        return False
    if found[2] != socket.gethostname():
        return None
    try:
        os.kill(int(found[1]), 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # it is somebody else's
    return True
