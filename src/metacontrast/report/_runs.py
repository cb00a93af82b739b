"""What runs have left in their folders, read as what strangers may have written there.

Regular files alone, up to a size, and nothing in them is believed to be of the type it should be.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .._flags import REMEDIES
from ..tasks._untrusted import Refused, Untrusted, plain
from ..train import RESULT
from ..train._claim import CONFIG, DEPENDS, VERSIONS
from ..train._diagnosed import REPORT
from ..train._folder import METRICS

LARGEST = {RESULT: 2**24, CONFIG: 2**22, METRICS: 2**26, REPORT: 2**16}  # bytes
MOST_RUNS, MOST_FOLDERS, MOST_IMAGES, LONGEST = 500, 100_000, 8, 200
_NUMBERS = ("value", "std", "ci95", "seconds")
_COUNTS = ("diverged", "meta_steps")
Line = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """The folder of a run, as far as it can be read.

    Attributes:
        name: its path below what was asked for.
        result: of a run that has finished, what is in result.json; else empty.
        settings: by name, in words.
        lines: of the metrics, each with a whole number `step`.
        diagnosis: the report on its first meta-gradient, or "".
        images: the PNGs that it drew.
        problems: what could not be read, and why.
    """

    name: str
    result: dict[str, Any]
    settings: dict[str, str]
    lines: list[Line]
    diagnosis: str
    images: list[Path]
    problems: list[str] = field(default_factory=list)

    @property
    def experiment(self) -> str:
        """Which it is a run of."""
        return self.result.get("experiment") or self.settings.get("experiment", "runs")

    @property
    def method(self) -> str:
        """Which it tried; the name of its folder, if it does not say."""
        return self.result.get("method") or self.settings.get("method", self.name)

    @property
    def seed(self) -> str:
        """Its seed, in words."""
        return self.settings.get("seed", "")

    @property
    def diverged(self) -> int:
        """How many tasks diverged."""
        return self._total("diverged")

    @property
    def flagged(self) -> int:
        """How many tasks were flagged."""
        return self._total("flagged")

    @property
    def flags(self) -> dict[str, int]:
        """How often each flag was raised."""
        each = [line["flags"] for line in self.lines if isinstance(line.get("flags"), dict)]
        return {x: int(np.nansum([number(y.get(x, 0)) for y in each])) for x in REMEDIES}

    def _total(self, name: str) -> int:
        return int(np.nansum([number(line.get(name)) for line in self.lines]))


def find_runs(root: Path) -> list[Run]:
    """The runs below a folder, in the order of their names.

    Raises:
        FileNotFoundError: there is none.
    """
    return [read_run(folder, root) for folder in run_folders(root)]


def run_folders(root: Path) -> list[Path]:
    """The folders of these runs.

    Raises:
        FileNotFoundError: there is none.
    """
    found = sorted(_folders(root))
    if not found:
        raise FileNotFoundError(
            f"runs: no {RESULT} and no {METRICS} is below {root}; start a run, or name the folder "
            "that holds it."
        )
    return found[:MOST_RUNS]


def _folders(root: Path) -> Iterator[Path]:
    """Those that hold a run; links are not followed."""
    for n, (folder, _, files) in enumerate(os.walk(root)):
        if n >= MOST_FOLDERS:
            return
        if RESULT in files or METRICS in files:
            yield Path(folder)


def read_run(folder: Path, root: Path) -> Run:
    """What is in one folder."""
    problems: list[str] = []
    result = _result(folder / RESULT, problems)
    config = _content(folder / CONFIG, problems)
    settings = config if isinstance(config, dict) else result.get("settings", {})
    lines: list[Line] = []
    if (folder / METRICS).exists():
        try:
            lines = read_lines(folder / METRICS)
        except ValueError as error:
            problems.append(str(error))
    name = str(folder.relative_to(root)) if folder != root else folder.resolve().name
    images = [p for p in sorted(folder.glob("*.png")) if not p.is_symlink()][:MOST_IMAGES]
    words = _settings(settings if isinstance(settings, dict) else {})
    return Run(plain(name), result, words, lines, _text(folder / REPORT), images, problems)


def read_lines(path: Path) -> list[Line]:
    """The lines of a metrics.jsonl that say their step; not one that is still being written.

    Raises:
        ValueError: the file is none, or too large.
    """
    with _of(path).opened(LARGEST[METRICS]) as file:
        parts = file.read().split(b"\n")[:-1]
    found = [line for part in parts if (line := _line(part)) is not None]
    return found


def _line(part: bytes) -> Line | None:
    try:
        line = json.loads(part)
    except (ValueError, RecursionError):
        return None
    is_line = isinstance(line, dict) and type(line.get("step")) is int
    return line if is_line and 0 <= line["step"] < 2**53 else None


def number(x: Any) -> float:
    """A number as it is, and anything else as NaN.

    Example:
        >>> number(2), number(None), number("2"), number(True)
        (2.0, nan, nan, nan)
    """
    if isinstance(x, bool) or not isinstance(x, int | float):
        return math.nan
    try:
        return float(x) if math.isfinite(x) else math.nan
    except OverflowError:
        return math.nan


def in_words(x: Any) -> str:
    """A setting in a few words that steer no terminal."""
    text = x if isinstance(x, str) else json.dumps(x, default=str)
    return plain(text if len(text) <= LONGEST else f"{text[:LONGEST]}...")


def _of(path: Path) -> Untrusted:
    return Untrusted("runs", path, "it is left out", "it is left out")


def _content(path: Path, problems: list[str]) -> Any:
    """What a file holds as JSON; None, and a problem, if it cannot be read."""
    if path.is_symlink() or not path.exists():
        return None
    try:
        with _of(path).opened(LARGEST[path.name]) as file:
            return json.loads(file.read())
    except (Refused, OSError) as error:
        problems.append(str(error))
        return None


def _text(path: Path) -> str:
    if path.is_symlink() or not path.exists():
        return ""
    try:
        with _of(path).opened(LARGEST[path.name]) as file:
            text = file.read().decode(errors="replace")
    except (Refused, OSError):
        return ""
    return "\n".join(plain(line) for line in text.splitlines())


def _result(path: Path, problems: list[str]) -> dict[str, Any]:
    """What result.json holds; nothing, and a problem, if it cannot be read as such."""
    found = _content(path, problems)
    try:
        return {} if found is None else checked_result(found, path)
    except ValueError as error:
        problems.append(str(error))
        return {}


def checked_result(found: Any, path: Path) -> dict[str, Any]:
    """A result as `write_result` leaves it, with texts that can be shown.

    Raises:
        ValueError: it is anything else.
    """
    if wrong := _wrong(found):
        raise ValueError(
            f"runs: {plain(str(path))} is no result of this library ({wrong}); move it away, or "
            "name a folder without it."
        )
    rows = found.get("rows")
    texts = {x: in_words(found[x]) for x in ("experiment", "method", "metric")}
    texts["reference"] = in_words(found["reference"] or "")
    rows = {in_words(x): in_words(y) for x, y in rows.items()} if isinstance(rows, Mapping) else {}
    return {**found, **texts, "rows": rows}


def _wrong(found: Any) -> str:
    """What of a result is not as it should be, or nothing."""
    if not isinstance(found, dict):
        return "no object"
    for name in ("experiment", "method", "metric", "reference"):
        if not isinstance(found.get(name, 0), str) and not (
            name == "reference" and found.get(name, 0) is None
        ):
            return f"{name} is no text"
    for name in _NUMBERS:
        if math.isnan(number(found.get(name))) and (found.get(name, "") is not None):
            return f"{name} is no number"
    if found["seconds"] is None:
        return "seconds is no number"
    for name in _COUNTS:
        if type(found.get(name)) is not int or not 0 <= found[name] < 2**53:
            return f"{name} is no count"
    return ""


def _settings(found: Mapping[str, Any]) -> dict[str, str]:
    """Without what is read off the objects, which repeats them."""
    names = [x for x in list(found)[:1000] if x not in (DEPENDS, VERSIONS)]
    return {in_words(x): in_words(found[x]) for x in names}
