"""The folder of a run: its settings, its metrics, its checkpoints."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .._types import PyTree
from .._warn import warn
from ._archive import UNFINISHED, DamagedError, sync_folder
from ._checkpoints import Checkpoints, Name, Saved
from ._claim import CONFIG, claim
from ._lock import held, hold
from ._processes import by_first, is_first
from ._theta import save_theta

METRICS, CHECKPOINTS = "metrics.jsonl", "checkpoints"
Lines = list[dict[str, Any]]


class Block(NamedTuple):
    """The part of a block that was done when the run was stopped in its midst.

    Attributes:
        metrics: of each meta-step, a row.
        seconds: that they took.
        steps: how many they are.
    """

    metrics: dict[str, np.ndarray]
    seconds: float
    steps: int


EMPTY = Block({}, 0.0, 0)


class Restored(NamedTuple):
    """What a run goes on from: a tree, the lines of its metrics, the block it is in."""

    tree: PyTree
    lines: Lines
    block: Block


def write_atomically(path: Path, text: str) -> None:
    """Replace the file: whoever reads it finds the old text or the new, also after a crash."""
    unfinished = path.with_name(path.name + UNFINISHED)
    unfinished.unlink(missing_ok=True)  # never through a link
    _write(unfinished, text, "x")
    os.replace(unfinished, path)
    sync_folder(path.parent)


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


def open_folder(out: str | Path, settings: dict[str, Any], resume: bool = False) -> Path:
    """Claim the folder `out` for a run that does not go through `meta_train`, and say what it is.

    No other run can have it for as long as this process lives.

    Args:
        out: absent, empty or, with `resume`, the folder of this very run.
        settings: what tells this run from another, as JSON.
        resume: allow a folder that holds this run.

    Raises:
        ValueError: if `out` holds anything else, or another run is writing there.
    """
    path = Path(out)
    settings = json.loads(json.dumps(settings, allow_nan=False))

    def claim_folder() -> None:
        claim(path, settings, resume)
        path.mkdir(parents=True, exist_ok=True)
        hold(path)
        claim(path, settings, resume)  # once more: another run may have come in between
        write_json(path / CONFIG, settings)

    by_first(claim_folder)
    return path


class Folder:
    """A folder of this run alone. Several processes use it together; the first writes."""

    def __init__(self, path: Path, settings: dict[str, Any], resume: bool) -> None:
        self._path, self._metrics = path, path / METRICS
        self._settings = settings
        self._checkpoints = Checkpoints(path / CHECKPOINTS)
        by_first(partial(self.check, resume))

    def __str__(self) -> str:
        return str(self._path)

    def check(self, resume: bool) -> list[str]:
        """Raise a `ValueError` unless this run may have the folder; see `claim`."""
        return claim(self._path, self._settings, resume, self._kept_settings)

    @contextmanager
    def open(self, resume: bool) -> Iterator[None]:
        """Hold the folder, alone, and say whose it is."""
        with ExitStack() as until_closed:

            def begin() -> None:
                self._path.mkdir(parents=True, exist_ok=True)
                until_closed.enter_context(held(self._path))
                self._begin(resume)

            by_first(begin)
            yield

    def _begin(self, resume: bool) -> None:
        others = self.check(resume)  # once more: another run may have come in between
        # Before anything else is touched: what is cut back depends on these settings.
        write_json(self._path / CONFIG, self._settings)
        (self._path / CHECKPOINTS).mkdir(exist_ok=True)
        if others:
            _warn(
                f"{self._path} was begun with other versions ({'; '.join(others)}); it goes on, "
                "but may differ in rounding from the run that it would have been."
            )

    def write(self, name: str, text: str) -> None:
        """Replace a file by this text."""
        if is_first():
            with self._words():
                write_atomically(self._path / name, text)

    def write_theta(self, name: str, theta: PyTree) -> None:
        """Replace a file by this theta; see `save_theta`."""
        if is_first():
            with self._words():
                save_theta(self._path / name, theta)

    def restore(self, first: PyTree) -> Restored:
        """The last checkpoint that is whole, or `first`; all that is later is cut off.

        A run that was extended goes on from its last regular checkpoint, as if the shorter last
        block had never been: so it is the run that it would have been from the start.

        Raises:
            ValueError: there were checkpoints, and none is left.
        """
        found = by_first(self._cut_back)
        if found is None:
            return Restored(first, [], EMPTY)
        tree, beside, about = self._checkpoints.load(Name(*found), first)
        steps = len(next(iter(beside.values()))) if beside else 0
        return Restored(tree, about["metrics"], Block(beside, about["seconds"], steps))

    def _cut_back(self) -> list[Any] | None:
        name, about = self._last_whole()
        lines = [] if about is None else about["metrics"]
        kept = "".join(json.dumps(line) + "\n" for line in lines)
        there = self._metrics.read_bytes() if self._metrics.exists() else None
        if kept and not (there or b"").startswith(kept.encode()):
            _warn(f"{self._metrics} is not as it was written; it is restored from the checkpoint.")
        if there != kept.encode():
            write_atomically(self._metrics, kept)
        self._checkpoints.drop(lambda other: name is not None and other <= name)
        return None if name is None else list(name)

    def _last_whole(self) -> tuple[Name | None, dict[str, Any] | None]:
        """The last checkpoint that can be used; those that are damaged are put aside."""
        for name in reversed([x for x in self._checkpoints.names() if self._is_usable(x)]):
            try:
                return name, self._checkpoints.read(name)
            except (DamagedError, OSError):
                aside = self._checkpoints.put_aside(name)
                _warn(
                    f"the checkpoint {name.file} in {aside.parent} is damaged and was put aside as "
                    f"{aside.name}; the run goes on from the one before it."
                )
        self._check_none_is_lost()
        return None, None

    def _check_none_is_lost(self) -> None:
        """A run that is killed before its first checkpoint leaves one line of metrics at most."""
        aside = self._checkpoints.aside()
        lines = self._metrics.read_bytes().count(b"\n") if self._metrics.exists() else 0
        if not aside and lines < 2:
            return
        of = f" (put aside: {', '.join(aside)})" if aside else ""
        raise ValueError(
            f"out: {self._path / CHECKPOINTS} holds no checkpoint that is whole{of}, though the "
            "run had got that far; put a copy of one there, or start again in another folder."
        )

    def _is_usable(self, name: Name) -> bool:
        """Whether this run, with its number of steps, passes there between two dispatches."""
        every, steps = self._settings["log_every"], self._settings["steps"]
        dispatch = self._settings["steps_per_dispatch"] if name.is_part else every
        at_end = name.step == steps
        return name.step <= steps and (at_end or name.step % every % dispatch == 0)

    def _kept_settings(self) -> dict[str, Any] | None:
        """Those in the last checkpoint that can be read."""
        for name in reversed(self._checkpoints.names()):
            try:
                found: dict[str, Any] = self._checkpoints.read(name)["config"]
                return found
            except (DamagedError, OSError):
                continue
        return None

    def add(self, lines: Lines, snapshot: PyTree) -> None:
        """Append the last line of metrics, then save a checkpoint of its step."""

        def append_and_save() -> None:
            with self._words():
                _write(self._metrics, json.dumps(lines[-1]) + "\n", "a")
                self._save(Name(lines[-1]["step"]), lines, snapshot, EMPTY)

        by_first(append_and_save)

    def add_part(self, step: int, lines: Lines, snapshot: PyTree, block: Block) -> None:
        """Save a checkpoint in the midst of a block."""

        def save() -> None:
            with self._words():
                self._save(Name(step, is_part=True), lines, snapshot, block)

        by_first(save)

    def _save(self, name: Name, lines: Lines, snapshot: PyTree, block: Block) -> None:
        about = {"metrics": lines, "config": self._settings, "seconds": block.seconds}
        self._checkpoints.save(name, Saved(snapshot, block.metrics, about))

    @contextmanager
    def _words(self) -> Iterator[None]:
        """An error of the disk says what is kept, and how to go on."""
        try:
            yield
        except OSError as error:
            names = self._checkpoints.names()
            kept = (
                f"the checkpoint of meta-step {names[-1].step} is kept" if names else "none is kept"
            )
            raise OSError(
                f"out: {self._path} cannot be written ({error.strerror or error}); {kept}. See to "
                "the disk, then go on with resume=True (--resume)."
            ) from error


def read_metrics(folder: str | Path) -> list[dict[str, Any]]:
    """The lines of the `metrics.jsonl` of a run, but for a last one that was torn by a crash.

    Raises:
        ValueError: if another one is damaged.
    """
    path = Path(folder) / METRICS
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    try:
        return [json.loads(line) for line in lines if line.endswith(b"\n")]
    except ValueError as error:
        raise ValueError(
            f"folder: {path} is damaged ({error}); resume the run, which restores it."
        ) from error


def _warn(text: str) -> None:
    warn(f"out: {text}")
