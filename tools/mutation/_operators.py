"""The faults: each a piece of one source text, and what to write in its place."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass

SMALL = 1e-3  # smaller numbers are tolerances, whose exact size is nobody's promise
SIGNS: dict[type[ast.AST], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.Pow: ("**", "*"),
    ast.Lt: ("<", ">="),
    ast.LtE: ("<=", ">"),
    ast.Gt: (">", "<="),
    ast.GtE: (">=", "<"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.And: ("and", "or"),
    ast.Or: ("or", "and"),
}
# Called in the place of each other.
NAMES = {"maximum": "minimum", "minimum": "maximum", "sum": "mean", "mean": "sum", "cos": "sin"}
NAMES |= {"sin": "cos", "max": "min", "min": "max", "any": "all", "all": "any", "zeros": "ones"}
# Not called: the first argument stands in for the result.
THROUGH = {"stop_gradient", "exp", "log", "sqrt", "abs", "fold_in", "conj", "normalise", "clip"}


@dataclass(frozen=True)
class Edit:
    """`[start, end)` of the source's bytes becomes `new`; `name` says what kind of fault it is."""

    name: str
    start: int
    end: int
    new: str


class Source:
    """A text, its tree, and where the tree's nodes are in it."""

    def __init__(self, text: str) -> None:
        self.bytes = text.encode()
        self.tree = ast.parse(text)
        lengths = [len(line) for line in self.bytes.splitlines(keepends=True)]
        self.starts = [sum(lengths[:i]) for i in range(len(lengths) + 1)]

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        """Where the node's text begins and ends."""
        assert node.end_lineno is not None and node.end_col_offset is not None
        first = self.starts[node.lineno - 1] + node.col_offset
        return first, self.starts[node.end_lineno - 1] + node.end_col_offset

    def text(self, node: ast.expr | ast.stmt) -> str:
        """What the node was written as."""
        start, end = self.span(node)
        return self.bytes[start:end].decode()

    def whole(self, node: ast.expr | ast.stmt, name: str, new: str) -> Edit:
        """The node, written as something else."""
        return Edit(name, *self.span(node), new)

    def between(self, left: ast.expr, right: ast.expr, sign: type[ast.AST]) -> Iterator[Edit]:
        """The sign between two nodes, written as another one."""
        if sign in SIGNS:
            old, new = SIGNS[sign]
            start, end = self.span(left)[1], self.span(right)[0]
            at = self.bytes[start:end].find(old.encode())
            if at >= 0 and b"#" not in self.bytes[start:end]:
                yield Edit(f"{old} {new}", start + at, start + at + len(old), new)


def binary(source: Source, node: ast.AST) -> Iterator[Edit]:
    """Another sign in a sum, a product, a comparison, a condition; a minus or `not` left out."""
    if isinstance(node, ast.BinOp):
        yield from source.between(node.left, node.right, type(node.op))
    elif isinstance(node, ast.Compare) and len(node.ops) == 1:
        yield from source.between(node.left, node.comparators[0], type(node.ops[0]))
    elif isinstance(node, ast.BoolOp) and len(node.values) == 2:
        left, right = node.values
        yield from source.between(left, right, type(node.op))
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not):
        yield source.whole(node, "unsigned", f"({source.text(node.operand)})")


def number(source: Source, node: ast.AST) -> Iterator[Edit]:
    """One more; a real number doubled."""
    if isinstance(node, ast.Constant) and not isinstance(node.value, bool | str | bytes):
        if isinstance(node.value, int):
            yield source.whole(node, "one more", str(node.value + 1))
        elif isinstance(node.value, float) and (abs(node.value) > SMALL or node.value == 0):
            yield source.whole(node, "doubled", repr(2 * node.value or 1.0))


def branch(source: Source, node: ast.AST) -> Iterator[Edit]:
    """One way only; a refusal is only left out, since everyone sees one too many."""
    if isinstance(node, ast.IfExp):
        yield source.whole(node, "body", f"({source.text(node.body)})")
        yield source.whole(node, "else", f"({source.text(node.orelse)})")
    elif isinstance(node, ast.If):
        yield source.whole(node.test, "never", "False")
        if not isinstance(node.body[-1], ast.Raise):
            yield source.whole(node.test, "always", "True")


def call(source: Source, node: ast.AST) -> Iterator[Edit]:
    """Another function, or none; `where` the other way round; a call for its effect left out."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield source.whole(node, "left out", "pass")
    if not isinstance(node, ast.Call) or not node.args or isinstance(node.args[0], ast.Starred):
        return
    name = node.func.attr if isinstance(node.func, ast.Attribute) else source.text(node.func)
    of_module = isinstance(node.func, ast.Attribute)
    if name in NAMES and of_module:
        new = source.text(node.func).removesuffix(name) + NAMES[name]
        yield source.whole(node.func, f"{name} {NAMES[name]}", new)
    elif name in THROUGH and of_module:
        yield source.whole(node, f"no {name}", f"({source.text(node.args[0])})")
    elif name in ("where", "select") and len(node.args) == 3:
        _, a, b = node.args
        new = f"{source.text(b)}, {source.text(a)}"
        yield Edit("swapped", source.span(a)[0], source.span(b)[1], new)


def attribute(source: Source, node: ast.AST) -> Iterator[Edit]:
    """A matrix that is not transposed."""
    if isinstance(node, ast.Attribute) and node.attr in ("T", "mT"):
        yield source.whole(node, "not transposed", source.text(node.value))


OPERATORS: tuple[Callable[[Source, ast.AST], Iterator[Edit]], ...] = (
    binary,
    number,
    branch,
    call,
    attribute,
)
