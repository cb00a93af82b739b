"""The settings that tell one run from another."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .._solve import positive


def checked_settings(config: Mapping[str, Any] | None, own: dict[str, Any]) -> dict[str, Any]:
    """`config` and the loop's `own` settings in one, as JSON gives them back.

    Raises:
        ValueError: for numbers the loop cannot run with, or a config that contradicts them or is
            not JSON.
    """
    _check_numbers(**own)
    config = config or {}
    for name in own.keys() & config.keys():
        if config[name] != own[name]:
            raise ValueError(
                f"config: its {name!r} is {config[name]!r}, but meta_train is given "
                f"{name}={own[name]!r}; rename it, if it means something else."
            )
    try:
        settings: dict[str, Any] = json.loads(json.dumps({**config, **own}, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"config: holds something that JSON cannot ({error}); turn it into finite numbers, "
            "strings, lists or dicts."
        ) from error
    return settings


def _check_numbers(
    steps: int,
    tasks: int,
    seed: int,
    every: int,
    chunk: int,
    polyak: int | None,
    at_a_time: int = 1,
) -> None:
    counts = {
        "steps": steps,
        "tasks": tasks,
        "every": every,
        "chunk": chunk,
        "at_a_time": at_a_time,
    }
    for name, value in counts.items():
        positive(name, value)
    if not isinstance(seed, int):
        raise ValueError(f"seed: must be a whole number, not {seed!r}; keys are made from it.")
    if every % chunk:
        raise ValueError(
            f"every: must be a multiple of chunk={chunk}, not {every}; try "
            f"every={-(-every // chunk) * chunk}, or chunk=1."
        )
    if tasks % at_a_time:
        raise ValueError(f"at_a_time: must divide tasks={tasks}, which {at_a_time} does not.")
    if polyak is not None and not (isinstance(polyak, int) and 1 <= polyak <= steps):
        raise ValueError(
            f"polyak: must be None or one of the meta-steps, 1 to {steps}, not {polyak!r}."
        )
