"""What an annotation asks of a value: whether it is met, and how to say that it is not."""

from __future__ import annotations

import inspect
import types
import typing
from collections import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from numbers import Number, Real
from pathlib import Path
from typing import Any, TypeAlias

import jax
import jaxtyping
import numpy as np

from ._leaves import is_array
from ._must import Must, shown

Condition: TypeAlias = Callable[[str, Any], None]  # raises, with the name of the argument


@dataclass(frozen=True)
class Kind:
    """One member of the union that an annotation is.

    Args:
        words: what it is.
        includes: whether a value is of this kind.
        types: of values that are not, but might have been: their type is right.
        conditions: what is asked of one that is, besides.
    """

    words: str
    includes: Callable[[Any], bool]
    types: tuple[type, ...] = ()
    conditions: tuple[Condition, ...] = ()


ANYTHING = Kind("anything", lambda _: True)


def kinds(hint: Any) -> list[Kind]:
    """The members of an annotation."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        more = tuple(part for part in parts[1:] if callable(part))
        return [
            replace(kind, words=_with(kind.words, more), conditions=kind.conditions + more)
            for kind in kinds(parts[0])
        ]
    if origin in (typing.Union, types.UnionType):
        return [kind for part in parts for kind in kinds(part)]
    if origin is typing.Literal:
        return [kind for part in parts for kind in (kinds(part) if part is None else [_only(part)])]
    return [_kind(hint, origin, parts)]


def _only(word: Any) -> Kind:
    same = lambda x: isinstance(x, type(word)) and bool(x == word)
    return Kind(repr(word), same, (type(word),))


def _with(words: str, conditions: tuple[Condition, ...]) -> str:
    """The words of a type with those of what is asked besides: "a number, positive"."""
    for more in (condition.words for condition in conditions if isinstance(condition, Must)):
        words = more if more.startswith(words) else ", ".join(filter(None, (words, more)))
    return words


def check(name: str, value: Any, members: Sequence[Kind]) -> None:
    """Raise, naming the argument, unless the value is what one member asks for."""
    for kind in members:
        if kind.includes(value):
            for condition in kind.conditions:
                condition(name, value)
            return
    either = _either(members)
    kind_of_error = ValueError if any(isinstance(value, m.types) for m in members) else TypeError
    hints = {m.hint for kind in members for m in kind.conditions if isinstance(m, Must) and m.hint}
    is_other = type(value).__name__ in either.split() and type(value).__module__ != "builtins"
    got = _told_apart(value) if is_other else shown(value)
    raise kind_of_error("; ".join([f"{name}: must be {either}, not {got}", *hints]) + ".")


def _told_apart(value: Any) -> str:
    """A value whose type has the name of another one: with the package that it is of."""
    own = type(value)
    package = ".".join(part for part in own.__module__.split(".") if not part.startswith("_"))
    return f"{package}.{own.__name__}, which goes with the functions of {package}"


def _either(members: Sequence[Kind]) -> str:
    *first, last = dict.fromkeys(kind.words for kind in members)
    return f"{', '.join(first)} or {last}" if first else last


def _kind(hint: Any, origin: Any, parts: tuple[Any, ...]) -> Kind:
    if hint is Any or hint is object or hint is jaxtyping.PyTree:
        return ANYTHING
    if hint in PLAIN:
        return PLAIN[hint]
    if origin is abc.Callable:
        return _function(parts[0] if parts else ...)
    if origin is tuple:
        return _tuple(parts)
    if origin is not None:
        return _container(origin, parts)
    return _instance(hint) if isinstance(hint, type) else ANYTHING


def _is_number(x: Any, dtypes: str, plain: type) -> bool:
    if isinstance(x, plain):
        return not isinstance(x, bool)
    return is_array(x) and x.shape == () and getattr(x.dtype, "kind", "?") in dtypes


# A bool is a number to Python, and not meant for one. NaN lies outside of every range of `_must`.
NONE = Kind("None", lambda x: x is None)
BOOL = Kind("True or False", lambda x: isinstance(x, bool | np.bool_))
WHOLE = lambda x: isinstance(x, int | np.integer) and not isinstance(x, bool)
INT = Kind("a whole number", WHOLE, (Number,))
FLOAT = Kind("a number", lambda x: _is_number(x, "fiuV", Real), (Number,))
COMPLEX = Kind("a number", lambda x: _is_number(x, "cfiuV", Number), (Number,))
TEXT, PATH = (
    Kind("text", lambda x: isinstance(x, str)),
    Kind("a path", lambda x: isinstance(x, Path)),
)
PLAIN: dict[Any, Kind] = {
    **{None: NONE, type(None): NONE, bool: BOOL, int: INT, float: FLOAT, complex: COMPLEX},
    **{str: TEXT, Path: PATH},
}


def _function(arguments: Any) -> Kind:
    if not isinstance(arguments, list):
        return Kind("a function", callable)
    n = len(arguments)
    words = f"a function of {n} argument{'' if n == 1 else 's'}"
    return Kind(words, lambda f: callable(f) and takes(f, n))


def takes(function: Callable[..., Any], n: int) -> bool:
    """Whether it can be called with `n` arguments; so it seems, if it does not tell."""
    try:
        inspect.signature(function).bind(*range(n))
    except TypeError:
        return False
    except ValueError:
        return True
    return True


def check_arity(name: str, function: Callable[..., Any], arguments: tuple[str, ...]) -> None:
    """Raise unless a function of an annotation without arguments takes these."""
    if not takes(function, len(arguments)):
        raise TypeError(
            f"{name}: is called with ({', '.join(arguments)}), which {shown(function)} does not "
            "take; give it these arguments, used or not."
        )


def _tuple(parts: tuple[Any, ...]) -> Kind:
    if len(parts) == 2 and parts[1] is ...:
        return _container(abc.Sequence, parts[:1])
    each = [kinds(part) for part in parts]
    words = f"a tuple of {len(parts)}, each {_either(each[0])}" if parts else "a tuple"
    has_size = lambda x: isinstance(x, tuple | list) and len(x) == len(each)
    fit = lambda x: all(_fits(y, kind) for y, kind in zip(x, each, strict=True))
    return Kind(words, lambda x: has_size(x) and fit(x), (tuple, list))


def _fits(value: Any, members: list[Kind]) -> bool:
    for kind in members:
        if kind.includes(value):
            try:
                for condition in kind.conditions:
                    condition("", value)
            except (TypeError, ValueError):
                return False
            return True
    return False


def _container(origin: Any, parts: tuple[Any, ...]) -> Kind:
    each = kinds(parts[-1]) if parts else [ANYTHING]
    if ANYTHING in each:
        each = []
    of = f" of which each is {_either(each)}" if each else ""
    fit = lambda xs: all(_fits(x, each) for x in xs) if each else True
    if issubclass(origin, abc.Mapping):
        is_dict = lambda x: isinstance(x, abc.Mapping)
        return Kind(f"a dict{of}", lambda x: is_dict(x) and fit(x.values()), (abc.Mapping,))
    if issubclass(origin, abc.Sequence):
        return Kind(f"a list{of}", lambda x: _is_list(x) and fit(x), (list, tuple))
    if origin in (abc.Iterable, abc.Collection):
        return Kind(f"something to go through{of}", lambda x: _can_be_gone_through(x, fit))
    return _instance(origin)


def _can_be_gone_through(x: Any, fit: Callable[[Any], bool]) -> bool:
    """Once is not enough for what an iterator holds to be looked at."""
    if isinstance(x, list | tuple | dict):
        return fit(x)
    return hasattr(x, "__iter__") and not isinstance(x, str)


def _is_list(x: Any) -> bool:
    sized = hasattr(x, "__len__") and hasattr(x, "__getitem__")
    return sized and not isinstance(x, str | bytes | abc.Mapping)


def _instance(cls: type) -> Kind:
    if issubclass(cls, jaxtyping.AbstractArray):
        return _shaped(cls)
    if issubclass(cls, jax.Array | np.ndarray):
        return Kind("an array", lambda x: is_array(x) or _is_number(x, "", Number))
    if getattr(cls, "_is_protocol", False) and "__call__" in vars(cls):
        _, *own = inspect.signature(cls.__call__).parameters.values()  # without self
        return _function([p for p in own if p.default is p.empty])
    words = f"{'an' if cls.__name__[0] in 'AEIOU' else 'a'} {cls.__name__}"
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):  # what has its fields is one
        fields = cls._fields
        return Kind(words, lambda x: isinstance(x, cls) or all(hasattr(x, f) for f in fields))
    return Kind(words, lambda x: isinstance(x, cls))


def _shaped(cls: Any) -> Kind:
    """An array by jaxtyping, of NumPy's too, or a number where there may be no axes."""
    numpy, dims = cls.dtype[np.ndarray, cls.dim_str], cls.dim_str.strip()
    of = f" of shape ({', '.join(dims.split())})" if dims not in ("", "...") else ""
    plain = dims in ("", "...")

    def includes(x: Any) -> bool:
        if plain and isinstance(x, Number):
            return _is_number(x, "", Real if cls.dtype is not jaxtyping.Complex else Number)
        with jaxtyping.jaxtyped("context"):  # sizes bound by the caller's code are none of these
            return isinstance(x, cls) or isinstance(np.asarray(x) if _is_numpy(x) else x, numpy)

    return Kind("a number" if not dims else f"an array{of}", includes)


def _is_numpy(x: Any) -> bool:
    return isinstance(x, np.ndarray | np.generic)
