"""The table of `low_precision`, without the emulation that its import brings."""

from __future__ import annotations

from typing import Any


def table(rows: list[dict[str, Any]]) -> str:
    """What came out, and the difference, each with half its 95% interval over tasks."""
    lines = [f"{'case':10}{'seed':>4}  {'all bits':>18}  {'TF32':>8}  {'difference':>19}"]
    for r in rows:
        digits = 2 if r["case"] == "omniglot" else 4
        exact = f"{r['highest']:.{digits}f} +- {r['highest_half_width']:.{digits}f}"
        difference = f"{r['difference']:+.{digits}f} +- {r['half_width']:.{digits}f}"
        lines.append(
            f"{r['case']:10}{r['seed']:>4}  {exact:>18}  {r['tensorfloat32']:>8.{digits}f}  "
            f"{difference:>19}"
        )
    return "\n".join(lines)
