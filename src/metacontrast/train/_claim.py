"""Whether a run may have a folder: none but the run that began there may go on in it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ._archive import UNFINISHED
from ._identity import CODE
from ._lock import LOCK

CONFIG = "config.json"
DEPENDS, VERSIONS = "depends_on", "versions"  # fields of it
_SHOWN = 6  # differences that are named

Settings = dict[str, Any]


def claim(
    path: Path, settings: Settings, resume: bool, kept: Callable[[], Settings | None] | None = None
) -> list[str]:
    """Raise a `ValueError` unless a run with these settings may start, or resume, in `path`.

    A resumed run may be given more `steps`, and other versions of packages; otherwise its settings
    must be the same.

    Args:
        path: the folder.
        settings: of the run, as they come back from JSON.
        resume: whether it may be that very run.
        kept: gives the settings that the last checkpoint holds, for a config.json that was damaged.

    Returns:
        What is to be said of each package that has another version now.
    """
    if path.exists() and not path.is_dir():
        raise ValueError(f"out: {path} is a file; choose a folder.")
    names = sorted(p.name for p in path.glob("*") if p.name not in (CONFIG + UNFINISHED, LOCK))
    if not names:
        return []
    if CONFIG not in names:
        raise ValueError(
            f"out: {path} holds files that are not of a run ({', '.join(names[:3])}); choose "
            "another folder, or empty this one."
        )
    there = _there(path / CONFIG, kept)
    differing = _differences(there, settings, resume)
    if differing and kept is not None and (vouched := kept()) is not None:
        there, differing = vouched, _differences(vouched, settings, resume)
    if differing:
        grow = "; steps can only be increased" if list(differing) == ["steps"] else ""
        more = len(differing) - _SHOWN
        words = [*list(differing.values())[:_SHOWN], *([f"and {more} more"] if more > 0 else [])]
        raise ValueError(
            f"out: {path} holds another run ({'; '.join(words)}); choose another "
            f"folder, or resume that run with its settings{grow}."
        )
    if not resume:
        raise ValueError(
            f"out: {path} already holds this run; continue it with resume=True (--resume), or "
            "choose another folder."
        )
    return _other_versions(there, settings)


def _there(path: Path, kept: Callable[[], Settings | None] | None) -> Settings:
    """The settings of the run that the folder holds."""
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(there, dict):
            return there
        error: Exception = ValueError("it is no object")
    except (ValueError, OSError) as raised:
        error = raised
    found = None if kept is None else kept()
    if found is None:
        raise ValueError(
            f"out: {path} cannot be read ({error}), and no checkpoint says what it held; put a "
            "copy of it back, or start again in another folder."
        ) from error
    return found


def _differences(there: Settings, now: Settings, resume: bool) -> dict[str, str]:
    """What is said of each setting that is another one there."""
    if resume and now.get("steps", 0) > there.get("steps", math.inf):
        there = there | {"steps": now["steps"]}
    same_python = _python(there) == _python(now)
    before, after = _flat(there, same_python), _flat(now, same_python)
    return dict(_told(before, after))


def _told(before: Settings, after: Settings) -> Iterator[tuple[str, str]]:
    """Of each difference what is said, but not of parts of what is another thing altogether."""
    told: list[str] = []
    absent = "absent"
    # Settings before what was read off the objects, a thing before its parts.
    for name in sorted(before.keys() | after.keys(), key=lambda name: ("." in name, name)):
        there, now = before.get(name, absent), after.get(name, absent)
        if there != now and not any(name.startswith(f"{x}.") for x in told):
            told.append(name)
            yield name, f"{name} is {there!r} there and {now!r} now"


def _flat(settings: Settings, with_code: bool) -> Settings:
    """The settings beside what they were read off the objects, without versions."""
    depends = settings.get(DEPENDS, {})
    own = {x: y for x, y in settings.items() if x not in (DEPENDS, VERSIONS)}
    own = {f"config.{x}" if x in depends else x: y for x, y in own.items()}
    return own | {x: y for x, y in depends.items() if with_code or not x.endswith(CODE)}


def _python(settings: Settings) -> str | None:
    """That of the bytecode."""
    version = settings.get(VERSIONS, {}).get("python")
    return None if version is None else version.rpartition(".")[0]


def _other_versions(there: Settings, now: Settings) -> list[str]:
    before, after = there.get(VERSIONS, {}), now.get(VERSIONS, {})
    names = [name for name in after if name in before and before[name] != after[name]]
    return [f"{name} {before[name]} there and {after[name]} now" for name in names]
