"""One page of all that runs have left: a table, curves, flags, figures, settings, commands."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from .._flags import REMEDIES
from .._optional import optional
from .._version import __version__
from ..tasks._untrusted import plain
from ..train._folder import write_atomically
from ._curves import QUANTITIES, quantity, svg
from ._runs import MOST_RUNS, Run, find_runs, in_words, number
from ._table import COLUMNS, EXPLAINED, NUMBERS, table_rows

LARGEST_IMAGE, MOST_PIXELS, MOST_BYTES = 2**22, 2**24, 2**25  # of one, of one, of all
_UNNAMED = ("step", "flags", "seconds", "diverged", "flagged", "rollbacks")


def write_page(runs: str | Path, page: str | Path) -> Path:
    """Write one HTML page that shows all runs below a folder, and needs nothing beside itself.

    Of each experiment: the table of results beside what was published, learning curves with their
    spread over seeds, flags, what the first meta-gradient was worth, the figures that the runs
    drew, their settings side by side, and the commands. It loads nothing and runs no script; what
    comes out of files is shown as text, whatever it is.

    Args:
        runs: where to look for them, at any depth.
        page: the file to write.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: there is no run.
        ImportError: jinja2 or matplotlib is not installed; they come with the extra `plots`.
    """
    jinja2 = optional("jinja2", "plots")
    optional("matplotlib", "plots")
    found = find_runs(Path(runs))
    loader = jinja2.PackageLoader("metacontrast.report", "")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    by_name: dict[str, list[Run]] = {}
    for run in found:
        by_name.setdefault(run.experiment, []).append(run)
    budget = [MOST_BYTES]
    text = environment.get_template("page.html.jinja").render(
        experiments=[_experiment(x, y, i, budget) for i, (x, y) in enumerate(by_name.items())],
        columns=COLUMNS, numbers=NUMBERS, remedies=REMEDIES, version=__version__,
        explained=EXPLAINED, n=len(found), most=MOST_RUNS,
    )  # fmt: skip
    path = Path(page)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text)
    return path


def _experiment(name: str, runs: Sequence[Run], i: int, budget: list[int]) -> dict[str, Any]:
    """What the template shows of one."""
    results = [run.result for run in runs if run.result]
    by_method: dict[str, list[Run]] = {}
    for run in runs:
        by_method.setdefault(run.method, []).append(run)
    return {
        "name": name,
        "id": f"e{i}",
        "metric": results[0]["metric"] if results else "no result yet",
        "rows": table_rows(results) if results else [],
        "drawing": _drawing(by_method, f"e{i}"),
        "flags": [_flags(run) for run in runs if run.lines],
        "diagnoses": [(_title(run), run.diagnosis) for run in runs if run.diagnosis],
        "diagnostics": _diagnostics(by_method),
        "images": [image for run in runs for image in _images(run, budget)],
        "methods": list(by_method),
        "settings": _settings(by_method),
        "commands": _commands(runs),
        "problems": [(run.name, problem) for run in runs for problem in run.problems],
    }


def _title(run: Run) -> str:
    return f"{run.method}, seed {run.seed}" if run.seed else run.method


def _drawing(by_method: dict[str, list[Run]], salt: str) -> dict[str, str] | None:
    curves = {
        method: [run.lines for run in runs if run.lines]
        for method, runs in by_method.items()
        if any(run.lines for run in runs)
    }
    name = quantity(curves)
    if name is None:
        return None
    ends = [f"{x}: {_last(seeds, name):.4g}" for x, seeds in curves.items()]
    about = f"{QUANTITIES[name]} over meta-steps; at the end, mean over seeds: {', '.join(ends)}"
    return {"title": QUANTITIES[name], "svg": svg(curves, name, salt), "about": about}


def _last(seeds: Sequence[Sequence[dict[str, Any]]], name: str) -> float:
    return float(np.mean([number(lines[-1].get(name)) for lines in seeds]))


def _flags(run: Run) -> dict[str, Any]:
    """How many tasks of a run diverged, and how often each flag was raised."""
    return {
        "title": _title(run),
        "step": run.lines[-1]["step"],
        "diverged": run.diverged,
        "flagged": run.flagged,
        "counts": run.flags,
    }


def _diagnostics(by_method: dict[str, list[Run]]) -> dict[str, Any]:
    """What the last lines of the metrics say besides, as means over seeds."""
    last = {x: [run.lines[-1] for run in runs if run.lines] for x, runs in by_method.items()}
    last = {method: lines for method, lines in last.items() if lines}
    seen = [x for lines in last.values() for line in lines for x in list(line)[:50]]
    names = [x for x in dict.fromkeys(seen) if x not in _UNNAMED]
    mean = lambda lines, name: np.mean([number(line.get(name)) for line in lines])
    values = lambda name: [_short(float(mean(lines, name))) for lines in last.values()]
    return {"methods": list(last), "rows": [(in_words(x), values(x)) for x in names]}


def _short(x: float) -> str:
    return f"{x:.4g}" if np.isfinite(x) else ""


def _settings(by_method: dict[str, list[Run]]) -> dict[str, Any]:
    """Rows of settings, with a value for each method: those that differ, and those that do not."""
    names = dict.fromkeys(x for runs in by_method.values() for run in runs for x in run.settings)
    rows = []
    for name in [x for x in names if x not in ("experiment", "method")]:
        cells = [
            ", ".join(dict.fromkeys(run.settings.get(name, "") for run in runs))
            for runs in by_method.values()
        ]
        rows.append((name, cells))
    differs = lambda cells: len(set(cells)) > 1
    return {
        "differing": [row for row in rows if differs(row[1])],
        "same": [(name, cells[0]) for name, cells in rows if not differs(cells)],
    }


def _commands(runs: Sequence[Run]) -> list[str]:
    told = [run.result["command"] for run in runs if isinstance(run.result.get("command"), str)]
    return [plain(command)[:1000] for command in dict.fromkeys(told)]


def _images(run: Run, budget: list[int]) -> list[dict[str, Any]]:
    """The figures that a run drew, drawn anew: what is no image does not get onto the page."""
    found = []
    for path in run.images:
        data, is_wide = _png(path)
        if not 0 < len(data) <= budget[0]:
            run.problems.append(f"runs: {plain(path.name)} is no image that can be shown.")
            continue
        budget[0] -= len(data)
        source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
        title = f"{plain(path.stem)[:80]}: {_title(run)}"
        found.append({"src": source, "title": title, "is_wide": is_wide})
    return found


def _png(path: Path) -> tuple[bytes, bool]:
    """The image of a file, and whether it is more than twice as wide as high; or nothing."""
    from PIL import Image

    data = BytesIO()
    try:
        if path.is_file() and path.stat().st_size <= LARGEST_IMAGE:
            with Image.open(path, formats=["PNG"]) as image:
                if image.width * image.height <= MOST_PIXELS:
                    image.convert("RGBA").convert("RGB").save(data, "PNG", optimize=True)
                    return data.getvalue(), image.width > 2 * image.height
    except Exception:  # of a damaged file a parser may raise anything
        pass
    return b"", False
