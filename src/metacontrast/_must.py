"""What values must be besides of a type, for annotations: `_checked` reads it there."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Number
from typing import Annotated, Any, TypeAlias

import jax
import numpy as np


@dataclass(frozen=True)
class Must:
    """What a value must be, in words, and what to do about one that is not.

    A traced number is not known before it runs, and passes.
    """

    words: str
    holds: Callable[[Any], bool]
    hint: str = ""

    def __call__(self, name: str, x: Any) -> None:
        """Raise unless `x` is that."""
        if not isinstance(x, jax.core.Tracer) and not self.holds(x):
            hint = f"; {self.hint}" if self.hint else ""
            raise ValueError(f"{name}: must be {self.words}, not {shown(x)}{hint}.")


def shown(x: Any) -> str:
    """A value in a few words."""
    if hasattr(x, "shape") and hasattr(x, "dtype"):
        return str(x) if isinstance(x, np.generic) else f"an array {x.dtype}{list(x.shape)}"
    plain = x is None or isinstance(x, Number | str | bytes | list | tuple | dict)
    if plain and len(text := repr(x)) <= 60:
        return text
    if inspect.isfunction(x):
        return f"{x.__name__}{_arguments(x)}"
    if type(x) in (list, tuple) and x:
        return f"a {type(x).__name__} with {shown(x[0])}"
    return f"of type {type(x).__name__}"


def _arguments(function: Callable[..., Any]) -> inspect.Signature:
    """Those of a function without their types, which can fill a page."""
    signature = inspect.signature(function)
    bare = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return signature.replace(parameters=bare, return_annotation=signature.empty)


def advice(hint: str) -> Must:
    """What to do about a value of another type."""
    return Must("", lambda _: True, hint)


def positive(hint: str = "") -> Must:
    """What NaN and infinity are not, either."""
    return Must("positive and finite", lambda x: 0 < x < math.inf, hint)


def nudge(hint: str = "try 0.1") -> Must:
    """What a contrast is divided by."""
    return Must("finite and not zero", lambda x: math.isfinite(x) and x != 0, hint)


not_negative = Must("at least 0 and finite", lambda x: 0 <= x < math.inf)
below_one = Must("at least 0 and below 1", lambda x: 0 <= x < 1)

Count: TypeAlias = Annotated[int, Must("a whole number of at least 1", lambda n: n >= 1)]
Index: TypeAlias = Annotated[int, Must("a whole number of at least 0", lambda n: n >= 0)]
Positive: TypeAlias = Annotated[float, positive()]
NotNegative: TypeAlias = Annotated[float, not_negative]
BelowOne: TypeAlias = Annotated[float, below_one]
Tolerance: TypeAlias = Annotated[float, positive("with 0 no run ever converges")]
Spread: TypeAlias = Annotated[float, positive("try a tenth of the scale of what is perturbed")]
Seed: TypeAlias = Annotated[
    int,
    Must(
        "a whole number from 0 to 4294967295 (2^32 - 1)",
        lambda n: 0 <= n < 2**32,
        "keys are made from it, and beyond that several would be the same",
    ),
]
