"""Runs as they go, in a terminal."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from .._must import Positive
from ..tasks._untrusted import plain
from ._glance import Glance, glance, sparkline
from ._runs import run_folders

GOING = ("running", "unknown")
COLOURS = {"running": "green", "ended": "blue", "interrupted": "yellow", "lost": "red"}


def watch(runs: Sequence[Path], every: Positive = 1.0) -> None:
    """Show runs as they go, until all have ended or Ctrl-C; off a terminal, one line each.

    Args:
        runs: folders of runs, or folders that hold some.
        every: seconds from one look to the next.

    Raises:
        FileNotFoundError: there is no run.
    """
    folders = [folder for root in runs for folder in run_folders(root)]
    if not sys.stdout.isatty():
        for folder in folders:
            print(one_line(glance(folder)))
        return
    from rich.live import Live

    try:
        with Live(auto_refresh=False, vertical_overflow="crop") as live:
            is_any_going = True
            while is_any_going:
                sheet, is_any_going = _sheet(folders)
                live.update(sheet, refresh=True)
                if is_any_going:
                    time.sleep(every)
    except KeyboardInterrupt:  # to end it is what it is for
        return


def one_line(found: Glance) -> str:
    """How a run stands, in a line.

    Example:
        >>> losses = {"meta_loss": [0.5], "valid_loss": [float("nan")]}
        >>> one_line(Glance("run", "running", 30, 90, 2.0, losses, 0, {"idle": 4}, 61.0))
        'run: running, meta-step 30 of 90 (2/s, 30s left), meta_loss 0.5, idle 4, checkpoint ...'
    """
    parts = [found.state, f"meta-step {_progress(found)}"]
    parts += [f"{x} {y[-1]:.4g}" for x, y in found.losses.items() if y and isfinite(y[-1])]
    parts += [_raised(found)] if _raised(found) else []
    age = found.checkpoint_age
    parts += [f"checkpoint {duration(age)} ago"] if isfinite(age) else ["no checkpoint"]
    parts += [found.problem] if found.problem else []
    return plain(f"{found.name}: {', '.join(parts)}")


def duration(seconds: float) -> str:
    """In two units.

    Example:
        >>> [duration(x) for x in (4.2, 61, 7300, 200_000)]
        ['4s', '1m01s', '2h01m', '2d07h']
    """
    s = max(0, round(seconds))
    if s < 60:
        return f"{s}s"
    if s < 3600:
        return f"{s // 60}m{s % 60:02}s"
    if s < 86_400:
        return f"{s // 3600}h{s % 3600 // 60:02}m"
    return f"{s // 86_400}d{s % 86_400 // 3600:02}h"


def _progress(found: Glance) -> str:
    of = f"{found.step} of {found.steps}" if found.steps else str(found.step)
    if found.state != "running" or not isfinite(found.rate):
        return of
    left = f", {duration(found.seconds_left)} left" if isfinite(found.seconds_left) else ""
    return f"{of} ({found.rate:.3g}/s{left})"


def _raised(found: Glance) -> str:
    diverged = [f"diverged {found.diverged}"] if found.diverged else []
    return ", ".join([*diverged, *(f"{x} {n}" for x, n in found.flags.items())])


def _sheet(folders: Sequence[Path]) -> tuple[Any, bool]:
    """All runs, those that go first, and whether any of them may go on."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    found = sorted(map(glance, folders), key=lambda one: one.state not in GOING)
    shared = os.path.commonpath([folder.absolute().parent for folder in folders])
    about = f"{plain(shared)}. Ctrl-C leaves; runs go on."
    sheet = Table(expand=True, box=box.HORIZONTALS, caption=Text(about), caption_justify="left")
    for column in ("run", "losses and flags"):
        sheet.add_column(column, overflow="fold", ratio=1)
    for one in found:
        name, age = os.path.relpath(one.name, shared), one.checkpoint_age
        left = Text(f"{plain(name)}\n", "bold")
        left.append(one.state, COLOURS.get(one.state, ""))
        left.append(f", meta-step {_progress(one)}", "not bold")
        kept = f"checkpoint {duration(age)} ago" if isfinite(age) else "no checkpoint yet"
        left.append(f"\n{kept}", "not bold")
        right = [_drawn(*loss) for loss in one.losses.items()]
        right += [_raised(one), plain(one.problem)]
        sheet.add_row(left, Text("\n".join(filter(None, right))), end_section=True)
    return sheet, any(one.state in GOING for one in found)


def _drawn(name: str, values: Sequence[float]) -> str:
    if not any(map(isfinite, values)):
        return ""
    last = f"{values[-1]:.4g}" if isfinite(values[-1]) else "not finite"
    return f"{name.removesuffix('_loss'):5} {last:10} {sparkline(values, 20)}"
