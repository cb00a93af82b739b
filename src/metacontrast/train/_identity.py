"""What a run depends on, read off the objects themselves: a line for each number and function."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._checked import unchecked

Lines = dict[str, Any]
CODE = ".code"  # ends the names of digests of code, which tell nothing under another Python
_FEW = 8  # numbers of an array that are written out


def identity(**parts: Any) -> Lines:
    """Each number, word, array and function in these parts, by where it is in them.

    Fields of named tuples and dataclasses (but for those with `compare=False`), what functions
    close over, their defaults, and what their code names are followed. None counts as absent, and
    names without their modules, which may be `__main__` today and another one tomorrow.

    Of code the bytecode counts, not comments, lines or docstrings; that of installed packages is
    left to their versions. Of a float array of JAX the shape and type count, for its values differ
    by rounding from device to device; of other arrays the values, too. Of objects of other classes
    the class counts, with their numbers and words.

    Example:
        >>> scale = 2.0
        >>> identity(loss=lambda phi, power=2: scale * phi**power)
        {'loss': '<lambda>', 'loss.code': '...', 'loss.power': 2, 'loss.scale': 2.0}
    """
    lines: Lines = {}
    for name, part in parts.items():
        _Walk(lines, {}).visit(name, part)
    return lines


def shapes(tree: Any) -> Any:
    """The tree with the shape and type of each leaf in its place."""
    word = lambda x: f"{jnp.result_type(x).name}{list(jnp.shape(x))}"
    paths = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(at, simple=True, separator="."): word(x) for at, x in paths}


@dataclasses.dataclass(frozen=True)
class _Walk:
    lines: Lines
    known: dict[int, tuple[str, Any]]  # by id; the objects are kept, so that ids stay theirs

    def visit(self, at: str, x: Any) -> None:
        if x is None:  # as good as absent
            return
        if (word := _word(x)) is not None:
            self.lines[at] = word
        elif id(x) in self.known:
            self.lines[at] = f"as {self.known[id(x)][0]}"
        else:
            self.known[id(x)] = at, x
            self._follow(at, x)

    def _follow(self, at: str, x: Any) -> None:
        if isinstance(x, FunctionType) and (plain := unchecked(x)) is not x:
            self.visit(at, plain)
        elif isinstance(x, FunctionType):
            self._function(at, x)
        elif isinstance(x, MethodType):
            self.visit(at, x.__func__)
            self.visit(f"{at}.self", x.__self__)
        elif hasattr(x, "__wrapped__"):  # by jit, custom_jvp and the like
            self.visit(at, x.__wrapped__)
        else:
            kind, parts = _parts(x)
            if type(x) not in (dict, tuple, list) or not parts:
                self.lines[at] = kind
            for name, part in parts:
                self.visit(f"{at}.{name}", part)

    def _function(self, at: str, f: FunctionType) -> None:
        self.lines[at] = f.__qualname__
        if not _is_installed(f):
            self.lines[at + CODE] = _digest(f.__code__, f.__doc__)
        for name, part in _captured(f):
            self.visit(f"{at}.{name}", part)


def _word(x: Any) -> Any:
    """What is written out as it is; None for all that is not."""
    if isinstance(x, np.generic):
        x = x.item()
    if isinstance(x, float) and not math.isfinite(x):
        return repr(x)
    if isinstance(x, bool | int | float | str):
        return x
    if isinstance(x, complex | np.dtype | range | slice):
        return str(x)
    if isinstance(x, type | np.ufunc) or type(x).__name__ == "builtin_function_or_method":
        return getattr(x, "__qualname__", x.__name__)
    if isinstance(x, ModuleType):
        return x.__name__
    if isinstance(x, bytes):
        return _hash(x)
    if isinstance(x, np.ndarray | jax.Array):
        return _array(x)
    return None


def _array(x: Any) -> Any:
    kind = f"{x.dtype}{list(x.shape)}"
    if isinstance(x, jax.core.Tracer) or not getattr(x, "is_fully_addressable", True):
        return kind
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return f"{kind} {np.asarray(jax.random.key_data(x)).ravel().tolist()[:_FEW]}"
    if x.size <= _FEW and x.dtype.kind in "biuf":
        return f"{kind} {' '.join(f'{v:.6g}' for v in np.asarray(x).ravel().tolist())}"
    if isinstance(x, np.ndarray) or x.dtype.kind in "biu":
        return f"{kind} {_hash(np.ascontiguousarray(x).tobytes())}"
    return kind


def _parts(x: Any) -> tuple[str, list[tuple[str, Any]]]:
    """The class of an object, and what of it is followed."""
    kind = type(x).__qualname__
    if dataclasses.is_dataclass(x):
        fields = [f.name for f in dataclasses.fields(x) if f.compare]
        return kind, [(name, getattr(x, name)) for name in fields if hasattr(x, name)]
    if isinstance(x, functools.partial):
        given = [("func", x.func), *((str(i), arg) for i, arg in enumerate(x.args))]
        return kind, given + sorted(x.keywords.items())
    if isinstance(x, Mapping):
        return kind, sorted((str(key), part) for key, part in x.items())
    if isinstance(x, tuple | list):
        names = getattr(x, "_fields", None) or map(str, range(len(x)))
        return kind, list(zip(names, x, strict=True))
    if isinstance(x, set | frozenset):
        return f"{kind} {sorted(map(str, map(_word, x)))}", []
    simple = [(name, part) for name, part in sorted(getattr(x, "__dict__", {}).items())]
    return kind, [(n, p) for n, p in simple if isinstance(p, bool | int | float | str)]


def _captured(f: FunctionType) -> Iterator[tuple[str, Any]]:
    """What a function depends on beside its code, in a fixed order."""
    names = f.__code__.co_varnames[: f.__code__.co_argcount]
    defaults = f.__defaults__ or ()
    yield from zip(names[len(names) - len(defaults) :], defaults, strict=True)
    yield from sorted((f.__kwdefaults__ or {}).items())
    for name, cell in zip(f.__code__.co_freevars, f.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not filled yet
            continue
    if not _is_installed(f):
        for name in sorted(_named(f.__code__)):
            if name in f.__globals__ and not isinstance(f.__globals__[name], ModuleType):
                yield name, f.__globals__[name]


_INSTALLED = ("<frozen ", sysconfig.get_path("stdlib"), str(Path(__file__).parents[1]))


def _is_installed(f: FunctionType) -> bool:
    """Whether the version of a package, or of Python, tells its code."""
    file = f.__code__.co_filename
    return file.startswith(_INSTALLED) or "site-packages" in file


def _codes(code: CodeType) -> Iterator[CodeType]:
    """It, and all that is defined in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _named(code: CodeType) -> set[str]:
    return {name for part in _codes(code) for name in part.co_names}


def _digest(code: CodeType, doc: str | None) -> str:
    def constants(part: CodeType) -> list[str]:
        kept = [x for x in part.co_consts if not isinstance(x, CodeType) and x != doc]
        return [repr(sorted(map(repr, x)) if isinstance(x, frozenset) else x) for x in kept]

    parts = [(part.co_code, part.co_names, constants(part)) for part in _codes(code)]
    return _hash(repr(parts).encode())


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]
