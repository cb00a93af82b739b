"""How a benchmark keeps what it found: a small file below results/."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from metacontrast.train import provenance


def keep(path: Path | None, command: str, **found: Any) -> None:
    """Write the command, what it found and by which versions, as JSON; nothing without a path."""
    if path is not None:
        text = json.dumps({"command": command, **found, **provenance()}, indent=1)
        path.write_text(text + "\n", encoding="utf-8")
