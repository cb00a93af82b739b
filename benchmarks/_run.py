"""Run parts, and keep what each found."""

from __future__ import annotations

import json
import os
import platform
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..report import figure
from ..train import provenance, write_json
from ._report import markdown, print_tables

# What each part compares, and the function that does.
PARTS = {
    "overhead": ("the rule against its own phases, run bare", "_overhead.overhead"),
    "sine": ("sine against other libraries", "_against.against_sine"),
    "conv4": ("an inner step of Conv4 against PyTorch", "_against.against_conv4"),
    "accuracy": ("time to an accuracy against unrolling and CG", "_accuracy.accuracy"),
    "growth": ("memory and time against steps, tasks, weights", "_growth.growth"),
}
PACKAGES = ("metacontrast", "jax", "numpy", "optax", "torch", "higher", "torchopt", "jaxopt")
TABLES = "tables.md"


def bench(part: str | None, quick: bool, out: Path, resume: bool) -> None:
    """Run one part, or all; write PART.json, PART.png and the tables of all parts in `out`.

    To resume, parts whose file is there, of the same settings, are not run again.

    Raises:
        ValueError: an unknown part.
    """
    if part is not None and part not in PARTS:
        raise ValueError(f"part: unknown {part!r}; choose one of {', '.join(PARTS)}.")
    names = list(PARTS) if part is None else [part]
    todo = [name for name in names if not (resume and _done(out / f"{name}.json", quick))]
    out.mkdir(parents=True, exist_ok=True)
    with tqdm(total=len(todo), unit="part") as bar:
        for name in todo:
            bar.set_description(name)
            _one(name, quick, out, bar)
            bar.update()
    found = [json.loads((out / f"{name}.json").read_text(encoding="utf-8")) for name in names]
    for one in found:
        print_tables(one)
    print(f"Tables and figures: {out}/{TABLES}, {out}/*.png")


def _done(path: Path, quick: bool) -> bool:
    return path.is_file() and json.loads(path.read_text(encoding="utf-8"))["quick"] == quick


def _one(name: str, quick: bool, out: Path, bar: Any) -> None:
    module, function = PARTS[name][1].split(".")
    machine, began = _machine(), time.perf_counter()
    tell = lambda what: bar.set_postfix_str(what)
    found = getattr(import_module(f".{module}", __package__), function)(quick, tell)
    result = {
        "part": name,
        "quick": quick,
        "seconds": time.perf_counter() - began,
        "tables": {title: [f._asdict() for f in rows] for title, rows in found.tables.items()},
        "notes": dict(found.notes),
        "machine": machine,
        **provenance(PACKAGES),
    }
    write_json(out / f"{name}.json", result)
    if found.drawing is not None:
        figure(out / name, *found.drawing)
    files = [out / f"{other}.json" for other in PARTS if (out / f"{other}.json").is_file()]
    pages = (markdown(json.loads(file.read_text(encoding="utf-8"))) for file in files)
    (out / TABLES).write_text("\n".join(pages), encoding="utf-8")


def _machine() -> dict[str, Any]:
    """Its processor and cores, and how busy it was before we began."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
    }
