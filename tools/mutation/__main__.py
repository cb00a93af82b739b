"""Faults put into the sources one at a time: which does no test see?

    python -m tools.mutation [--number 200] [--only PATTERN ...] [--list] [--again] [--budget 600]

What is tried, and by which tests, is in mutants.toml beside this file. The checkout is only read.
What has been tried is kept in `--work` and not tried again while the fault and the tests that said
something of it stay the same, so that a run can be stopped and continued; a test that has seen a
fault before is asked first. The summary comes to results/mutation.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import tomllib
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from time import monotonic
from typing import Any

from . import _run
from ._mutants import Mutant, choose, written
from ._summary import report, summary

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = Path(__file__).with_name("mutants.toml")
SLOWER = 4.0  # a mutant may take this many times what the tests take without it


def main() -> None:
    """The command."""
    ask = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    ask.add_argument("--number", type=int, default=100, help="of mutants that are not hand-written")
    ask.add_argument("--only", nargs="+", default=["*"], help="patterns of names")
    ask.add_argument("--list", action="store_true", help="names, lines and faults, and no tests")
    ask.add_argument("--again", action="store_true", help="also what has survived before")
    ask.add_argument(
        "--budget", type=float, default=float("inf"), help="seconds, after which it stops"
    )
    ask.add_argument("--work", type=Path, default=ROOT / ".mutation", help="folder of the copy")
    ask.add_argument("--out", type=Path, default=ROOT / "results" / "mutation.json")
    options = ask.parse_args()
    settings = tomllib.loads(SETTINGS.read_text())
    mutants = chosen(settings, options.number, options.only)
    if options.list:
        print(*(f"{m.name}  line {m.line}: {m.old} -> {m.new}" for m in mutants), sep="\n")
        return
    try_all(mutants, settings, options)


def chosen(settings: dict[str, Any], number: int, only: list[str]) -> list[Mutant]:
    """The hand-written ones, and `number` of the others; of these, those with such names."""
    package = settings["package"]
    skip = [*settings["skip"], *settings["equivalent"]]
    is_asked = lambda name: any(fnmatch(name, pattern) for pattern in only)
    hand = [
        written(_place(ROOT, mutant["file"], package), name, **mutant)
        for name, mutant in settings["mutant"].items()
        if is_asked(name)
    ]
    return hand + [m for m in choose(ROOT / package, number, skip) if is_asked(m.name)]


def _place(root: Path, file: str, package: str) -> Path:
    """A file of the package, or of another folder of the checkout."""
    path = root / package / file
    return path if path.is_file() else root / file


def tests_of(file: str, settings: dict[str, Any]) -> list[str]:
    """Those that mutants.toml gives for it, and then all of the file's own name."""
    tests = [t for at, some in settings["tests"].items() if fnmatch(file, at) for t in some]
    own = sorted(ROOT.glob(f"tests/**/test_{Path(file).stem.strip('_')}.py"))
    return list(dict.fromkeys([*tests, *(str(at.relative_to(ROOT)) for at in own)]))


def try_all(mutants: list[Mutant], settings: dict[str, Any], options: argparse.Namespace) -> None:
    """One after the other; after each, what it gave is on disk."""
    work, began = options.work, monotonic()
    log = work / "tried.jsonl"
    _run.copy(ROOT, work)
    _run.import_heavy()
    rows = {row["name"]: row for row in map(json.loads, log.open())} if log.exists() else {}
    for mutant in mutants:
        tests, row = tests_of(mutant.file, settings), rows.get(mutant.name)
        again = options.again and row is not None and row["outcome"] == "passed"
        if _is_known(row, mutant, tests, work) and not again:
            continue
        if monotonic() - began > options.budget:
            break
        ordered = list(dict.fromkeys([*_saw_it(row, work), *tests]))
        outcome, seen_by = _try(mutant, ordered, settings, work)
        key = _key(mutant.text, [seen_by] if seen_by else tests, work)
        row = {"key": key, "seen_by": seen_by, **_row(mutant, tests, outcome)}
        rows[mutant.name] = row
        with log.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(report(row), flush=True)
    known = [m for m in mutants if _is_known(rows.get(m.name), m, tests_of(m.file, settings), work)]
    summary([rows[m.name] for m in known], len(mutants), settings["equivalent"], options.out)


def _is_known(row: dict[str, Any] | None, mutant: Mutant, tests: list[str], work: Path) -> bool:
    """Whether nothing has changed that the row depends on."""
    said = [row["seen_by"]] if row and row["seen_by"] else tests
    return row is not None and row["key"] == _key(mutant.text, said, work)


def _saw_it(row: dict[str, Any] | None, work: Path) -> list[str]:
    """The test that saw the fault when it was tried before, if it is still there."""
    found = re.match(r"(?:FAILED|ERROR) ([^\s:]+)::(\w+)", row["tail"]) if row else None
    if not found or not (work / found[1]).is_file():
        return []
    is_there = f"def {found[2]}(" in (work / found[1]).read_text()
    return [f"{found[1]}::{found[2]}"] if is_there else []


def _try(
    mutant: Mutant, tests: list[str], settings: dict[str, Any], work: Path
) -> tuple[_run.Outcome, str | None]:
    """With the fault in the copy, some tests after the others, until one sees it; and which did."""
    path, seconds = _place(work, mutant.file, settings["package"]), 0.0
    for test in tests:
        limit = SLOWER * _seconds(test, work) + 30
        whole = path.read_text()
        try:
            path.write_text(mutant.text)
            outcome = _run.run([test], work, limit)
        finally:
            path.write_text(whole)
        seconds += outcome.seconds
        if outcome.what != "passed":
            return replace(outcome, seconds=seconds), test
    return _run.Outcome("passed", seconds, ""), None


def _seconds(test: str, work: Path) -> float:
    """What the tests take on the sources as they are, where they must pass."""
    at = work / "taken.json"
    taken = json.loads(at.read_text()) if at.exists() else {}
    key = _fingerprint(test, work)
    if key not in taken:
        outcome = _run.run([test], work, float("inf"), keep=True)
        if outcome.what != "passed":
            raise SystemExit(f"{test} fails without any fault: {outcome.tail}")
        taken[key] = outcome.seconds
        at.write_text(json.dumps(taken))
    return taken[key]


def _fingerprint(test: str, work: Path) -> str:
    """Of all that says whether the test passes: the sources, and what tests share."""
    files = [
        path for name in ("src", "experiments", "tests") for path in (work / name).rglob("*.py")
    ]
    files = sorted(path for path in files if not path.name.startswith("test_"))
    return _key(test, [test, *(str(path.relative_to(work)) for path in files)], work)


def _row(mutant: Mutant, tests: list[str], outcome: _run.Outcome) -> dict[str, Any]:
    fault = {"name": mutant.name, "file": mutant.file, "line": mutant.line}
    fault |= {"old": mutant.old, "new": mutant.new, "tests": tests}
    return fault | {"outcome": outcome.what, "seconds": outcome.seconds, "tail": outcome.tail}


def _key(text: str, tests: list[str], work: Path) -> str:
    """Of a text and of the copies of some tests, or of other files."""
    parts = [text.encode(), *((work / test.split("::")[0]).read_bytes() for test in tests)]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


if __name__ == "__main__":
    main()
