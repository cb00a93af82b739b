"""Warnings that point at the code which called the library."""

from __future__ import annotations

import re
import sys
import warnings


def warn(text: str, kind: type[Warning] = RuntimeWarning) -> None:
    """Warn of the nearest line that is neither the library's nor JAX's."""
    frame, level = sys._getframe(1), 2
    while frame and re.match(r"(metacontrast|jax)\b", frame.f_globals.get("__name__", "")):
        frame, level = frame.f_back, level + 1  # type: ignore[assignment]
    warnings.warn(text, kind, stacklevel=level)
