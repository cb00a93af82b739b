"""How many malformed calls were named, in words."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

OUTCOMES = ("named", "obscure", "silent")


class Row(NamedTuple):
    """One malformed call, and what became of it."""

    module: str
    call: str
    argument: str
    wrong: str
    outcome: str
    line: str  # the first of the error


def summary(rows: list[Row]) -> dict[str, Any]:
    """Counts and shares, of each module and of all."""
    counts: dict[str, Counter[str]] = {"all": Counter(row.outcome for row in rows)}
    for row in rows:
        counts.setdefault(row.module, Counter())[row.outcome] += 1
    return {
        module: {"calls": count.total()} | {name: count[name] for name in OUTCOMES}
        | {"share_named": round(count["named"] / max(1, count.total()), 4)}
        for module, count in counts.items()
    }  # fmt: skip


def table(found: dict[str, Any]) -> str:
    """The same in words."""
    lines = [f"{'':14}{'calls':>8}" + "".join(f"{name:>10}" for name in OUTCOMES)]
    for module, cell in found.items():
        shares = "".join(f"{cell[name] / cell['calls']:>10.1%}" for name in OUTCOMES)
        lines.append(f"{module:14}{cell['calls']:>8}{shares}")
    return "\n".join(lines)
