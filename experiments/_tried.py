"""The file of a tuning: by what settings were judged, and a line for each that was tried."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def write(out: Path, rows: Iterable[Mapping[str, Any]], **judged: Mapping[str, Any]) -> None:
    """Write `judged` and `rows`, as JSON."""
    heads = [f' "{name}": {json.dumps(facts)}' for name, facts in judged.items()]
    lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    body = ",\n".join([*heads, f' "rows": [\n{lines}\n ]'])
    out.write_text(f"{{\n{body}\n}}\n", encoding="utf-8")
