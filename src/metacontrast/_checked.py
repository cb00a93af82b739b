"""Arguments of all that is public, checked against the annotations before anything is done.

Annotations are read when a function is first called, so that importing it costs nothing. What the
modules of a package have imported of each other by then they call as it is, unchecked.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any, ParamSpec, TypeVar

from ._expected import ANYTHING, Kind, check, kinds

UNKNOWN = object()
FIELDS = "__dataclass_fields__"
MARK = "_is_checked"
P = ParamSpec("P")
R = TypeVar("R")


def check_public(module: dict[str, Any]) -> None:
    """Have the public functions and classes of a package check their arguments.

    Args:
        module: its `globals()`.
    """
    for name, value in list(module.items()):
        ours = str(getattr(value, "__module__", "")).startswith(f"{__package__}.")
        if name.startswith("_") or not ours:
            continue
        if inspect.isfunction(value):
            module[name] = checked(value)
            setattr(sys.modules[value.__module__], name, module[name])  # where pickle looks
        elif inspect.isclass(value) and not getattr(value, "_is_protocol", False):
            _check_class(value)


def _check_class(cls: Any) -> None:
    """The same of its constructor, if it has one of its own, and of its methods.

    Those of an abstract class are for the library to call, which knows with what.
    """
    if "__init__" in vars(cls) and not issubclass(cls, Exception):
        cls.__init__ = checked(cls.__init__, cls)
    if inspect.isabstract(cls):
        return
    for name, method in list(vars(cls).items()):
        is_public = name == "__call__" or not name.startswith("_")
        is_method = inspect.isfunction(method) and name not in getattr(cls, FIELDS, ())
        if is_public and is_method and len(inspect.signature(method).parameters) > 1:
            setattr(cls, name, checked(method))


def checked(function: Callable[P, R], cls: type | None = None) -> Callable[P, R]:
    """The function, which raises if an argument is not what its annotation says.

    Args:
        function: which.
        cls: of a constructor.
    """
    names: list[str] = []
    expected: dict[str, list[Kind]] = {}

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if not names:
            names.extend(inspect.signature(function).parameters)
            expected.update(_expected(function, cls, names))
        for name, value in zip(names, args, strict=False):
            if name in expected:
                check(name, value, expected[name])
        for name in kwargs:
            if name in expected:
                check(name, kwargs[name], expected[name])
        return function(*args, **kwargs)

    call.__dict__[MARK] = True
    return call


def unchecked(function: Callable[..., Any]) -> Callable[..., Any]:
    """What `checked` was given, or a function as it is."""
    is_checked = MARK in getattr(function, "__dict__", {})
    return function.__wrapped__ if is_checked else function  # type: ignore[attr-defined]


def _expected(
    function: Callable[..., Any], cls: type | None, names: list[str]
) -> dict[str, list[Kind]]:
    owners = reversed(cls.__mro__) if cls is not None and is_dataclass(cls) else (function,)
    hints = {name: hint for owner in owners for name, hint in _hints(owner).items()}
    known = {name: hint for name, hint in hints.items() if name in names and hint is not UNKNOWN}
    found = {name: kinds(hint) for name, hint in known.items()}
    return {name: members for name, members in found.items() if ANYTHING not in members}


def _hints(owner: Any) -> dict[str, Any]:
    scope = vars(sys.modules[owner.__module__])
    return {name: _hint(text, scope) for name, text in inspect.get_annotations(owner).items()}


def _hint(text: Any, scope: dict[str, Any]) -> Any:
    """What an annotation says; nothing, where it is of a type that type checkers alone import."""
    if not isinstance(text, str):
        return text
    try:
        return eval(text, scope)
    except (NameError, TypeError):
        return UNKNOWN
