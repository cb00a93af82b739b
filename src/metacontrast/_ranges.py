"""Numbers of a range, for annotations: what `_checked` reads besides the type."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

import jax


@dataclass(frozen=True)
class Range:
    """What a number must be, in words, and what to do about one that is not.

    A traced number is not known before it runs, and passes.
    """

    words: str
    holds: Callable[[Any], bool]
    hint: str = ""

    def __call__(self, name: str, x: Any) -> None:
        """Raise unless `x` is in the range."""
        if not isinstance(x, jax.core.Tracer) and not self.holds(x):
            hint = f"; {self.hint}" if self.hint else ""
            raise ValueError(f"{name}: must be {self.words}, not {x!r}{hint}.")


def positive(hint: str = "") -> Range:
    """A range that NaN and infinity are outside of."""
    return Range("positive and finite", lambda x: 0 < x < math.inf, hint)


def nudge(hint: str = "try 0.1") -> Range:
    """What a contrast is divided by."""
    return Range("finite and not zero", lambda x: math.isfinite(x) and x != 0, hint)


not_negative = Range("at least 0 and finite", lambda x: 0 <= x < math.inf)
below_one = Range("at least 0 and below 1", lambda x: 0 <= x < 1)

Count: TypeAlias = Annotated[int, Range("a whole number of at least 1", lambda n: n >= 1)]
Index: TypeAlias = Annotated[int, Range("a whole number of at least 0", lambda n: n >= 0)]
Positive: TypeAlias = Annotated[float, positive()]
NotNegative: TypeAlias = Annotated[float, not_negative]
BelowOne: TypeAlias = Annotated[float, below_one]
Tolerance: TypeAlias = Annotated[float, positive("with 0 no run ever converges")]
Spread: TypeAlias = Annotated[float, positive("try a tenth of the scale of what is perturbed")]
Seed: TypeAlias = Annotated[
    int,
    Range(
        "a whole number from 0 to 4294967295 (2^32 - 1)",
        lambda n: 0 <= n < 2**32,
        "keys are made from it, and beyond that several would be the same",
    ),
]
