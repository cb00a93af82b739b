"""The settings that tell one run from another."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .._precision import Precision
from ._claim import DEPENDS, VERSIONS
from ._identity import Lines


def check_settings(
    config: Mapping[str, Any] | None,
    *,
    depends_on: Lines,
    versions: Lines,
    precision: Precision,
    **own: Any,
) -> dict[str, Any]:
    """`config` and those of the loop's `own` settings that are not None, as JSON gives them back.

    Beside them, what else the run `depends_on`, the `versions` that it is computed by, and the
    `precision` of products.

    Raises:
        ValueError: for numbers the loop cannot run with, or a config that contradicts them or is
            not JSON.
    """
    _check_numbers(**own)
    own["seed"] = int(own["seed"])  # JSON does not know NumPy's
    own = {name: value for name, value in own.items() if value is not None}
    own |= {DEPENDS: depends_on, VERSIONS: versions, "precision": precision}
    config = config or {}
    for name in own.keys() & config.keys():
        if config[name] != own[name]:
            given = "" if name in (DEPENDS, VERSIONS) else f"={own[name]!r}"
            raise ValueError(
                f"config: its {name!r} is {config[name]!r}, but meta_train is given "
                f"{name}{given}; rename it, if it means something else."
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
    log_every: int,
    steps_per_dispatch: int,
    average_from: int | None,
    task_batch_size: int | None,
    warm_start: str | None,
    on_collapse: str | None,
) -> None:
    if log_every % steps_per_dispatch:
        more = -(-log_every // steps_per_dispatch) * steps_per_dispatch
        raise ValueError(
            f"log_every: must be a multiple of steps_per_dispatch={steps_per_dispatch}, not "
            f"{log_every}; try log_every={more}, or steps_per_dispatch=1."
        )
    if task_batch_size is not None:
        _check_task_batch_size(task_batch_size, tasks)
    if average_from is not None:
        _check_average_from(average_from, steps)
    if warm_start is not None and tasks != 1:
        raise ValueError(
            f"warm_start: goes on with the phases of one long task, so that tasks must be 1, not "
            f"{tasks}."
        )


def _check_task_batch_size(task_batch_size: int, tasks: int) -> None:
    if tasks % task_batch_size:
        raise ValueError(
            f"task_batch_size: must divide tasks={tasks}, which {task_batch_size} does not."
        )


def _check_average_from(average_from: int, steps: int) -> None:
    if average_from > steps:
        raise ValueError(
            f"average_from: must be None or one of the meta-steps, 1 to {steps}, not "
            f"{average_from!r}."
        )
