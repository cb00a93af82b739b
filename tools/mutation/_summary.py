"""What the mutants came to: a line for each, and one file for all."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

KILLED = ("failed", "timeout", "crash")


def report(row: dict[str, Any]) -> str:
    """One line; a survivor with its fault, the others with the test that saw them."""
    survived = row["outcome"] == "passed"
    said = f"line {row['line']}: {row['old']} -> {row['new']}" if survived else row["tail"][:110]
    outcome = "SURVIVED" if survived else row["outcome"]
    return f"{outcome:9}{row['seconds']:6.1f} s  {row['name']}  {' '.join(said.split())}"


def summary(
    rows: list[dict[str, Any]], mutants: int, equivalent: dict[str, str], out: Path
) -> None:
    """Write the counts and the survivors, and print them."""
    counts = Counter(row["outcome"] for row in rows)
    killed, tried = sum(counts[what] for what in KILLED), len(rows) - counts["broken"]
    survivors = [row for row in rows if row["outcome"] == "passed"]
    fields = ("name", "file", "line", "old", "new")
    result = {
        "mutants": mutants,
        "tried": tried,
        "killed": killed,
        "share_killed": killed / tried if tried else None,
        "outcomes": dict(counts),
        "equivalent": equivalent,
        "survivors": [{name: row[name] for name in fields} for row in survivors],
        "broken": [row["name"] for row in rows if row["outcome"] == "broken"],
        "by_file": _by_file(rows),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\n{killed} of {tried} mutants killed, of {mutants} chosen; {len(survivors)} survived:")
    print(*(report(row) for row in survivors), f"Written to {out}", sep="\n")


def _by_file(rows: list[dict[str, Any]]) -> dict[str, str]:
    """File to killed/tried."""
    seen, killed = Counter(r["file"] for r in rows), Counter[str]()
    killed.update(r["file"] for r in rows if r["outcome"] in KILLED)
    return {file: f"{killed[file]}/{n}" for file, n in sorted(seen.items())}
