"""The mutants of a package: which there are, and which of them are tried."""

from __future__ import annotations

import ast
import hashlib
import math
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from ._operators import OPERATORS, Edit, Source

# What computes nothing, and what is a choice more than a computation: defaults, words of an error.
PASSED = (ast.AnnAssign, ast.Import, ast.ImportFrom, ast.JoinedStr, ast.Raise, ast.arguments)


@dataclass(frozen=True)
class Mutant:
    """A file, by its path in the package (or in the checkout), with one fault in it.

    The name, `FILE:FUNCTION:FAULT:COUNT`, stays while the rest of the file changes.
    """

    name: str
    file: str
    line: int
    old: str
    new: str
    text: str


def of_file(root: Path, file: str) -> Iterator[Mutant]:
    """All of one file's, by line."""
    source = Source((root / file).read_text())
    seen: Counter[str] = Counter()
    for where, node in _nodes(source.tree):
        for operator in OPERATORS:
            for edit in operator(source, node):
                name = f"{file}:{where}:{edit.name}"
                seen[name] += 1
                if mutant := _mutant(source, edit, f"{name}:{seen[name]}", file):
                    yield mutant


def choose(root: Path, number: int, skip: Collection[str]) -> list[Mutant]:
    """`number` of them, of every file its share: as the square root of how many it has.

    None of `skip`, patterns of files and names of mutants.

    Chosen by a hash of the name, so that a change elsewhere chooses no others.
    """
    files = sorted(str(path.relative_to(root)) for path in root.rglob("*.py"))
    files = [file for file in files if not any(fnmatch(file, pattern) for pattern in skip)]
    of = {file: sorted(of_file(root, file), key=_hash) for file in files}
    of = {file: [m for m in mutants if m.name not in skip] for file, mutants in of.items()}
    total = sum(len(mutants) ** 0.5 for mutants in of.values())
    shares = {file: number * len(mutants) ** 0.5 / total for file, mutants in of.items()}
    return [m for file, mutants in of.items() for m in mutants[: math.ceil(shares[file])]]


def written(path: Path, name: str, file: str, old: str, new: str) -> Mutant:
    """One that a person wrote: `old`, which occurs once in the file at `path`, becomes `new`."""
    text = path.read_text()
    if text.count(old) != 1:
        raise ValueError(f"{name}: {old!r} occurs {text.count(old)} times in {file}; give it anew.")
    line = text[: text.index(old)].count("\n") + 1
    return Mutant(name, file, line, old, new, text.replace(old, new))


def _mutant(source: Source, edit: Edit, name: str, file: str) -> Mutant | None:
    """None if the edited text is no Python, or means the same."""
    text = (source.bytes[: edit.start] + edit.new.encode() + source.bytes[edit.end :]).decode()
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return None
    if ast.dump(tree) == ast.dump(source.tree):
        return None
    old = source.bytes[edit.start : edit.end].decode()
    line = source.bytes[: edit.start].count(b"\n") + 1
    return Mutant(name, file, line, old, edit.new, text)


def _nodes(node: ast.AST, where: str = "") -> Iterator[tuple[str, ast.AST]]:
    """All that computes, and the function it is in; no types, defaults, words or settings."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            for statement in child.body:
                yield from _nodes(ast.Module([statement], []), f"{where}.{child.name}".strip("."))
        elif not isinstance(child, PASSED) and not _is_print(child):
            if where:
                yield where, child
            yield from _nodes(child, where)


def _is_print(node: ast.AST) -> bool:
    call = node.value if isinstance(node, ast.Expr) else None
    return (
        isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "print"
    )


def _hash(mutant: Mutant) -> str:
    return hashlib.sha256(mutant.name.encode()).hexdigest()
