"""Run parts, and keep the result of each."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from tqdm import tqdm

from metacontrast.report import figure
from metacontrast.train import provenance, write_json

from ._measure import timed
from ._report import markdown, print_tables
from ._result import Progress

# What each part compares, and the function that does.
PARTS = {
    "overhead": ("the rule against its own phases, run bare", "_overhead.overhead"),
    "sine": ("sine against other libraries", "_against.against_sine"),
    "conv4": ("an inner step of Conv4 against PyTorch", "_against.against_conv4"),
    "accuracy": ("time to an accuracy against unrolling and CG", "_accuracy.accuracy"),
    "growth": ("memory and time against steps, tasks, weights", "_growth.growth"),
}
PACKAGES = ("metacontrast", "jax", "numpy", "optax", "torch", "higher", "torchopt", "jaxopt")
TABLES, INTERRUPTED = "tables.md", ".interrupted.json"


def run_parts(names: Sequence[str], quick: bool, out: Path, resume: bool) -> None:
    """Run parts; write PART.json, PART.png and the tables of all that `out` holds.

    To resume, parts whose file is there, of the same settings, are not run again.
    """
    missing = [name for name in names if not (resume and _is_done(out / f"{name}.json", quick))]
    out.mkdir(parents=True, exist_ok=True)
    with tqdm(total=len(missing), unit="part") as bar:
        for name in missing:
            bar.set_description(name)
            _run_part(name, quick, out, bar.set_postfix_str)
            bar.update()
    for name in names:
        print_tables(_read(out / f"{name}.json"))
    print(f"Tables and figures: {out}/{TABLES}, {out}/*.png")


def _is_done(path: Path, quick: bool) -> bool:
    return path.is_file() and bool(_read(path)["quick"]) == quick


def _run_part(name: str, quick: bool, out: Path, progress: Progress) -> None:
    computer, began = machine(), time.perf_counter()
    timed.clear()
    try:
        result = _part(name)(quick, progress)
    except (KeyboardInterrupt, SystemExit):
        path = out / f"{name}{INTERRUPTED}"
        write_json(path, {"part": name, "quick": quick, "seconds": timed, "machine": computer})
        print(f"What was timed is in {path}; --resume leaves out finished parts.", file=sys.stderr)
        raise
    (out / f"{name}{INTERRUPTED}").unlink(missing_ok=True)
    facts = {
        "part": name,
        "quick": quick,
        "seconds": time.perf_counter() - began,
        "tables": {title: [m._asdict() for m in rows] for title, rows in result.tables.items()},
        "notes": dict(result.notes),
        "points": list(result.points),
        "machine": computer,
        **provenance(PACKAGES),
    }
    write_json(out / f"{name}.json", facts)
    if result.plot is not None:
        figure(out / name, *result.plot)
    files = [out / f"{other}.json" for other in PARTS if (out / f"{other}.json").is_file()]
    (out / TABLES).write_text("\n".join(map(markdown, map(_read, files))), encoding="utf-8")


def _part(name: str) -> Any:
    """The function of a part, imported when it is asked for: some bring in other libraries."""
    module, function = PARTS[name][1].split(".")
    return getattr(import_module(f".{module}", __package__), function)


def _read(path: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return facts


def machine() -> dict[str, Any]:
    """Its processor and cores, and how busy it was before we began."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
    }
