"""Docstrings, Google's with Markdown's backticks and indented formulas, as Sphinx reads them."""

from __future__ import annotations

import re
from itertools import groupby
from typing import Any

from sphinx.application import Sphinx

TICKED = re.compile(r"(`[^`]+`)")
STRONG = re.compile(r"(?<!\w)(\*\w+\*)(?!\w)")
NAME = re.compile(r"`[A-Za-z_][\w.]*(\(\))?`")


def mend(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Changes the lines in place, before napoleon reads them."""
    lines[:] = mended(lines)


def mended(lines: list[str]) -> list[str]:
    """Formulas become literal blocks; in prose, what stands between backticks is literal."""
    made: list[str] = []
    for literal, part in groupby(literal_lines(lines), key=lambda pair: pair[0]):
        text = [line for _, line in part]
        if literal and ">>>" not in text[0]:
            indent = len(made[-2]) - len(made[-2].lstrip()) if len(made) > 1 else 0
            made += [" " * indent + ".. code-block:: text", ""]
        made += text if literal else prose("\n".join(text)).split("\n")
    return made


def literal_lines(lines: list[str]) -> list[tuple[bool, str]]:
    """Each line, and whether it is in a block: indented after an empty line, or an example."""
    depth, block, pairs, before = 0, -1, [], "start"
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if line.strip() and block > indent:
            block = -1
        example = line.lstrip().startswith(">>>")
        if line.strip() and block < 0 and (example or (not before.strip() and indent > depth)):
            block = indent
        if line.strip() and block < 0:
            depth = indent
        pairs.append((block >= 0, line))
        before = line
    return pairs


def prose(text: str) -> str:
    """A name alone between backticks is left to the default role, which links what it knows.

    Letters may follow it, as in "`Task`s", if an escaped space stands between.
    """
    parts = TICKED.split(text)
    for i, part in enumerate(parts):
        if i % 2 == 0:
            parts[i] = "\\ " * (i > 0 and part[:1].isalnum()) + plain(part)
        elif not NAME.fullmatch(part):
            parts[i] = f"`{part}`"
    return "".join(parts)


def plain(text: str) -> str:
    """What would be markup, but *this*, is none."""
    pieces = STRONG.split(text)
    pieces[::2] = [re.sub(r"([|*])", r"\\\1", piece) for piece in pieces[::2]]
    return "".join(pieces)


def skip(app: Sphinx, what: str, name: str, obj: Any, leave: bool, options: Any) -> bool | None:
    """Fields of a NamedTuple say nothing but their number; its class describes them."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls it."""
    app.connect("autodoc-process-docstring", mend, priority=100)
    app.connect("autodoc-skip-member", skip)
    return {"parallel_read_safe": True}
