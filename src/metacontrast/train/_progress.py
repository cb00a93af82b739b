"""How far a run is: a bar on a terminal, elsewhere one plain line a look."""

from __future__ import annotations

import sys
from typing import Any, Self

from tqdm import tqdm

_IN_LINE = ("meta_loss", "valid_loss", "diverged", "flagged")


class Progress:
    """Of `total` meta-steps, on stderr; of several processes, in the first."""

    def __init__(self, total: int, done: int, is_shown: bool) -> None:
        self._total, self._is_shown = total, is_shown
        self._is_plain = is_shown and not sys.stderr.isatty()
        shown = is_shown and not self._is_plain
        self._bar = tqdm(total=total, initial=done, unit="step", disable=not shown)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def advance(self, steps: int, last: dict[str, Any]) -> None:
        """So many meta-steps more, the last of them with these numbers."""
        self._bar.update(steps)
        self._bar.set_postfix({name: f"{x:.4g}" for name, x in last.items()})

    def validated(self, loss: float) -> None:
        """A validation with this loss."""
        self._bar.set_description(f"valid {loss:.4g}")

    def look(self, line: dict[str, Any]) -> None:
        """A line of metrics."""
        if self._is_plain:
            numbers = [f"{name} {_short(line[name])}" for name in _IN_LINE if name in line]
            self.say(f"meta-step {line['step']} of {self._total}: {', '.join(numbers)}")

    def say(self, text: str) -> None:
        """A line of words."""
        if self._is_shown:
            self._bar.write(text, file=sys.stderr)
            sys.stderr.flush()


def _short(x: float | None) -> str:
    return "not finite" if x is None else f"{x:.4g}"
