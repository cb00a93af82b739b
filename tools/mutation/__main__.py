"""Faults put into the sources one at a time: which does no test see?

    python -m tools.mutation [--number 200] [--only PATTERN] [--list] [--again] [--budget SECONDS]

What is tried, and by which tests, is in mutants.toml beside this file. The checkout is only read.
What has been tried is kept in `--work` and not tried again while source and tests stay the same, so
that a run can be stopped and continued. The summary comes to results/mutation.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
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
    ask.add_argument("--number", type=int, default=200, help="of mutants that are not hand-written")
    ask.add_argument("--only", default="*", help="a pattern of names")
    ask.add_argument("--list", action="store_true", help="names, lines and faults, and no tests")
    ask.add_argument("--again", action="store_true", help="also what has survived before")
    ask.add_argument(
        "--budget", type=float, default=float("inf"), help="seconds, after which it stops"
    )
    ask.add_argument("--work", type=Path, default=ROOT / ".mutation", help="folder of the copy")
    ask.add_argument("--out", type=Path, default=ROOT / "results" / "mutation.json")
    options = ask.parse_args()
    settings = tomllib.loads(SETTINGS.read_text())
    mutants = [m for m in chosen(settings, options.number) if fnmatch(m.name, options.only)]
    if options.list:
        print(*(f"{m.name}  line {m.line}: {m.old} -> {m.new}" for m in mutants), sep="\n")
        return
    try_all(mutants, settings, options)


def chosen(settings: dict[str, Any], number: int) -> list[Mutant]:
    """The hand-written ones, and `number` of the others."""
    root = ROOT / settings["package"]
    skip = [*settings["skip"], *settings["equivalent"]]
    hand = [written(root, name, **mutant) for name, mutant in settings["mutant"].items()]
    return hand + choose(root, number, skip)


def tests_of(file: str, settings: dict[str, Any]) -> list[str]:
    """Those of the file's own name, and then those that mutants.toml gives for it."""
    patterns = [f"tests/**/test_{Path(file).stem.strip('_')}.py"]
    patterns += [t for at, tests in settings["tests"].items() if fnmatch(file, at) for t in tests]
    tests = [str(at.relative_to(ROOT)) for p in patterns for at in sorted(ROOT.glob(p))]
    return list(dict.fromkeys(tests))


def try_all(mutants: list[Mutant], settings: dict[str, Any], options: argparse.Namespace) -> None:
    """One after the other; after each, what it gave is on disk."""
    log, began = options.work / "tried.jsonl", monotonic()
    _run.copy(ROOT, options.work)
    _run.import_heavy()
    rows = {row["key"]: row for row in map(json.loads, log.open())} if log.exists() else {}
    for mutant in mutants:
        tests = tests_of(mutant.file, settings)
        key = _key(mutant.text, tests)
        if key in rows and not (options.again and rows[key]["outcome"] == "passed"):
            continue
        if monotonic() - began > options.budget:
            break
        rows[key] = {"key": key, **_row(mutant, tests, _try(mutant, tests, settings, options.work))}
        with log.open("a") as file:
            file.write(json.dumps(rows[key]) + "\n")
        print(report(rows[key]), flush=True)
    keys = [_key(m.text, tests_of(m.file, settings)) for m in mutants]
    summary([rows[key] for key in keys if key in rows], len(mutants), options.out)


def _try(mutant: Mutant, tests: list[str], settings: dict[str, Any], work: Path) -> _run.Outcome:
    """With the fault in the copy, one file of tests after the other, until one sees it."""
    path, seconds = work / settings["package"] / mutant.file, 0.0
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
            return replace(outcome, seconds=seconds)
    return _run.Outcome("passed", seconds, "")


_TAKEN: dict[str, float] = {}


def _seconds(test: str, work: Path) -> float:
    """What the file takes on the sources as they are, where it must pass."""
    if test not in _TAKEN:
        outcome = _run.run([test], work, float("inf"), keep=True)
        if outcome.what != "passed":
            raise SystemExit(f"{test} fails without any fault: {outcome.tail}")
        _TAKEN[test] = outcome.seconds
    return _TAKEN[test]


def _row(mutant: Mutant, tests: list[str], outcome: _run.Outcome) -> dict[str, Any]:
    fault = {"name": mutant.name, "file": mutant.file, "line": mutant.line}
    fault |= {"old": mutant.old, "new": mutant.new, "tests": tests}
    return fault | {"outcome": outcome.what, "seconds": outcome.seconds, "tail": outcome.tail}


def _key(text: str, tests: list[str]) -> str:
    """Of the mutated source and the tests' texts."""
    parts = [text.encode(), *((ROOT / test).read_bytes() for test in tests)]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


if __name__ == "__main__":
    main()
