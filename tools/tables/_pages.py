"""Where tables stand on a page, and what may be a number outside of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
_BLOCK = re.compile(r"(<!-- table: ([\w-]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
_CODE = re.compile(r"`[^`]*`")
_DECIMAL = re.compile(r"\d\.\d|\d[eE][-+]?\d")


def written(page: str, tables: Mapping[str, Callable[[], str]]) -> str:
    """The page with each table between `<!-- table: NAME -->` and `<!-- end -->` made anew.

    Raises:
        ValueError: a name that is none of the tables.
    """

    def block(found: re.Match[str]) -> str:
        start, name, _, end = found.groups()
        if name not in tables:
            raise ValueError(f"table: {name} is not in tools/tables/_tables.py; add it there.")
        return f"{start}{tables[name]()}\n{end}"

    return _BLOCK.sub(block, page)


def loose_numbers(page: str) -> list[str]:
    """The rows of tables that show a measurement and are not made of results.

    A measurement is a number with a decimal point or an exponent. What stands in code quotes is a
    setting, the name of a version or a criterion, and none.
    """
    rows = [row for row in _BLOCK.sub("", page).splitlines() if row.startswith("|")]
    return [row for row in rows if _DECIMAL.search(_CODE.sub("", row))]
