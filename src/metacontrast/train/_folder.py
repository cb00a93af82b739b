"""The folder of a run: its settings, its metrics, its checkpoints."""

from __future__ import annotations

import json
import math
import os
from functools import partial
from pathlib import Path
from typing import Any

from .._types import PyTree
from ._checkpoints import Checkpoints
from ._processes import by_first, is_first

CONFIG, METRICS, CHECKPOINTS = "config.json", "metrics.jsonl", "checkpoints"
_UNFINISHED = ".tmp"


def write_atomically(path: Path, text: str) -> None:
    """Replace the file: whoever reads it finds the old text or the new, also after a crash."""
    unfinished = path.with_name(path.name + _UNFINISHED)
    _write(unfinished, text, "w")
    os.replace(unfinished, path)


def write_json(path: Path, content: Any) -> None:
    """Replace the file by `content` as JSON; NaN and infinity are refused.

    Of several processes, only the first one writes.
    """
    if is_first():
        write_atomically(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def _write(path: Path, text: str, mode: str) -> None:
    with path.open(mode, encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def claim(path: Path, settings: dict[str, Any], resume: bool) -> None:
    """Raise a `ValueError` unless a run with these settings may start, or resume, in `path`.

    A resumed run may be given more `steps`; otherwise its settings must be the same.
    """
    if path.exists() and not path.is_dir():
        raise ValueError(f"out: {path} is a file; choose a folder.")
    names = sorted(p.name for p in path.glob("*") if p.name != CONFIG + _UNFINISHED)
    if not names:
        return
    if CONFIG not in names:
        raise ValueError(
            f"out: {path} holds files that are not of a run ({', '.join(names[:3])}); choose "
            "another folder, or empty this one."
        )
    if differing := _differences(path, settings, resume):
        grow = "; steps can only be increased" if list(differing) == ["steps"] else ""
        raise ValueError(
            f"out: {path} holds another run ({'; '.join(differing.values())}); choose another "
            f"folder, or resume that run with its settings{grow}."
        )
    if not resume:
        raise ValueError(
            f"out: {path} already holds this run; continue it with resume=True (--resume), or "
            "choose another folder."
        )


def open_folder(out: str | Path, settings: dict[str, Any], resume: bool = False) -> Path:
    """Claim the folder `out` for a run that does not go through `meta_train`, and say what it is.

    Args:
        out: absent, empty or, with `resume`, the folder of this very run.
        settings: what tells this run from another, as JSON.
        resume: allow a folder that holds this run.

    Raises:
        ValueError: if `out` holds anything else.
    """
    path = Path(out)
    settings = json.loads(json.dumps(settings, allow_nan=False))

    def claim_folder() -> Path:
        claim(path, settings, resume)
        path.mkdir(parents=True, exist_ok=True)
        write_json(path / CONFIG, settings)
        return path

    return by_first(claim_folder)


def _differences(path: Path, now: dict[str, Any], resume: bool) -> dict[str, str]:
    """What is said of each setting that is another one there."""
    there = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    if resume and now.get("steps", 0) > there.get("steps", math.inf):
        there["steps"] = now["steps"]
    return {
        name: f"{name} is {there.get(name, 'absent')!r} there and {now.get(name, 'absent')!r} now"
        for name in sorted(there.keys() | now.keys())
        if name not in there or name not in now or there[name] != now[name]
    }


class Folder:
    """A claimed folder, open for writing. Several processes use it together; the first writes."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self._path, self._metrics = path, path / METRICS
        self._settings = settings
        # Before anything else is touched: what is cut back below depends on these settings.
        by_first(partial(path.mkdir, parents=True, exist_ok=True))
        write_json(path / CONFIG, settings)
        self._checkpoints = Checkpoints(path / CHECKPOINTS)

    def write(self, name: str, text: str) -> None:
        """Replace a file by this text."""
        if is_first():
            write_atomically(self._path / name, text)

    def restore(self, first: PyTree) -> tuple[PyTree, list[dict[str, Any]]]:
        """The last checkpoint, or `first`, and the metrics up to it; all later is cut off.

        A run that was extended goes on from its last regular checkpoint, as if the shorter last
        block had never been: so it is the run that it would have been from the start.
        """
        step, lines = by_first(self._cut_back)
        return (self._checkpoints.load(step, first) if step else first), lines

    def _cut_back(self) -> tuple[int, list[dict[str, Any]]]:
        every, steps = self._settings["log_every"], self._settings["steps"]
        usable = [s for s in self._checkpoints.steps() if s % every == 0 or s == steps]
        step = max(usable, default=0)
        self._checkpoints.drop(step.__ge__)
        lines = [line for line in _complete(self._metrics) if line["step"] <= step]
        write_atomically(self._metrics, "".join(json.dumps(line) + "\n" for line in lines))
        return step, lines

    def add(self, line: dict[str, Any], snapshot: PyTree) -> None:
        """Append a line of metrics, then save a checkpoint of `line["step"]`."""
        if is_first():
            _write(self._metrics, json.dumps(line) + "\n", "a")
        self._checkpoints.save(line["step"], snapshot)


def read_metrics(folder: str | Path) -> list[dict[str, Any]]:
    """The lines of the `metrics.jsonl` of a run."""
    return _complete(Path(folder) / METRICS)


def _complete(path: Path) -> list[dict[str, Any]]:
    """The lines but for a last one that was torn by a crash."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    try:
        return [json.loads(line) for line in lines]
    except json.JSONDecodeError:
        return [json.loads(line) for line in lines[:-1]]
