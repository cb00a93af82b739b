"""Settings and folds that a search can work with, or an error that names them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .._must import Must

LEAST = 3  # folds: one by which a fit is judged, one apart, one to learn from


def _whole(least: int) -> Callable[[Any], bool]:
    return lambda x: (
        isinstance(x, int | np.integer) and not isinstance(x, bool) and bool(x >= least)
    )


def _number(x: Any) -> bool:
    is_number = isinstance(x, int | float | np.number) and not isinstance(x, bool)
    return is_number and bool(np.isfinite(x))


SETTINGS = {
    "per": Must(
        "'feature' or 'example'", lambda x: isinstance(x, str) and x in ("feature", "example")
    ),
    "max_steps": Must("a whole number of at least 0", _whole(0)),
    "learning_rate": Must("a positive number", lambda x: _number(x) and x > 0),
    "patience": Must("a whole number of at least 1", _whole(1)),
    "caution": Must("a number of at least 0", lambda x: _number(x) and x >= 0),
    "penalties": Must(
        "None, or some positive numbers",
        lambda x: (
            x is None or (np.ndim(x) == 1 and len(x) > 0 and all(_number(v) and v > 0 for v in x))
        ),
    ),
}


def check_settings(search: Any) -> None:
    """Raise a `ValueError` for the first setting that is out of its range."""
    for name, must in SETTINGS.items():
        must(name, getattr(search, name))


def check_folds(index: Sequence[np.ndarray], y: np.ndarray, classes: np.ndarray | None) -> None:
    """Raise unless there are enough folds, which part the data, with each class in enough."""
    together = np.sort(np.concatenate(index)) if index else np.empty(0)
    if not np.array_equal(together, np.arange(len(y))):
        raise ValueError(
            "cv: its held-out sets must hold each example once; give a KFold, or a whole number."
        )
    if len(index) < LEAST:
        raise ValueError(f"cv: must make at least {LEAST} folds, not {len(index)}.")
    if classes is None:
        return
    if len(classes) < 2:
        raise ValueError(f"y: has one class, {classes[0]!r}; a classifier needs two or more.")
    for c, label in enumerate(classes):
        if (folds := sum(bool(np.any(y[at] == c)) for at in index)) < LEAST:
            raise ValueError(
                f"y: class {label!r} is in {folds} of {len(index)} folds, and needs {LEAST}; give "
                "more examples of it, or leave it out."
            )
