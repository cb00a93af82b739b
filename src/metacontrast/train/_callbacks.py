"""Who else is told of a run on its way: each line of the metrics, as plain numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, Self, runtime_checkable

from .._warn import warn
from ._flagged import NAMES
from ._processes import is_first


@runtime_checkable
class Callback(Protocol):
    """What `meta_train(callbacks=[...])` takes: anything with these two methods.

    `metacontrast.loggers` has some. With several processes only the first one calls them. One that
    raises is warned of and left out from then on; the run goes on.

    Example:
        >>> class Printed:
        ...     def log(self, step, values):
        ...         print(step, values["meta_loss"])
        ...
        ...     def close(self): ...
        >>> isinstance(Printed(), Callback)
        True
    """

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take the numbers of a look, of which there is one each `log_every` meta-steps.

        Args:
            step: how many meta-steps were taken; larger at each call.
            values: the line of `metrics.jsonl`, of which a checkpoint is already kept: `meta_loss`,
                `valid_loss`, `diverged` and so on, and each flag as `flags/NAME`. What is not
                finite is NaN.
        """

    def close(self) -> None:
        """The run has ended, in whatever way."""


@runtime_checkable
class Kept(Callback, Protocol):
    """One that keeps what it is told, and goes on there when the run is resumed."""

    def last_step(self) -> int:
        """Up to which meta-step it has been told; 0 if it is new. It is told the rest first."""


class Callbacks:
    """Those of a run."""

    def __init__(self, given: Sequence[Callback]) -> None:
        self._since = {id(x): 0 for x in given}
        self._active = list(given) if is_first() else []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for callback in list(self._active):
            self._guarded(callback, callback.close, "at its end")

    def start(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Tell those that keep what they are told of the lines before, if they lack some."""
        done = lines[-1]["step"] if lines else 0

        def begin(callback: Callback) -> None:
            since = callback.last_step() if isinstance(callback, Kept) else done
            self._since[id(callback)] = since
            for line in lines:
                self._tell(callback, line)

        for callback in list(self._active):
            self._guarded(callback, partial(begin, callback), "when it began")

    def log(self, line: Mapping[str, Any]) -> None:
        """Tell all of them of a line of the metrics."""
        for callback in list(self._active):
            tell = partial(self._tell, callback, line)
            self._guarded(callback, tell, f"at meta-step {line['step']}")

    def _tell(self, callback: Callback, line: Mapping[str, Any]) -> None:
        if line["step"] > self._since[id(callback)]:
            callback.log(line["step"], numbers(line))

    def _guarded(self, callback: Callback, act: Callable[[], None], when: str) -> None:
        try:
            act()
        except Exception as error:  # whatever others' code does, the run is not to suffer from it
            self._active.remove(callback)
            said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            warn(
                f"callbacks: {type(callback).__name__} failed {when} ({said}); the run goes on "
                "without it."
            )


def numbers(line: Mapping[str, Any]) -> dict[str, float]:
    """A line of the metrics as numbers alone.

    Example:
        >>> numbers({"step": 10, "meta_loss": None, "flags": {"idle": 2}})["flags/idle"]
        2.0
    """
    plain = {x: y for x, y in line.items() if x not in ("step", "flags")}
    found = {x: math.nan if y is None else float(y) for x, y in plain.items()}
    return found | {f"flags/{x}": float(line.get("flags", {}).get(x, 0)) for x in NAMES}
