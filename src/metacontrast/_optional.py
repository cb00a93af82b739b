"""Packages that only some users need."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType


def require(module: str, extra: str) -> None:
    """Raise unless a package of an extra is installed, without importing it.

    Raises:
        ImportError: it is not; how to install it is said.
    """
    try:
        is_there = find_spec(module) is not None
    except ValueError:  # something took its place in sys.modules
        is_there = False
    if not is_there:
        raise _absent(module, extra)


def optional(module: str, extra: str) -> ModuleType:
    """Import a module of an extra; if it is absent, say how to install it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise _absent(module, extra) from error


def _absent(module: str, extra: str) -> ImportError:
    package = module.partition(".")[0]
    return ImportError(f"{package}: not installed; pip install 'metacontrast[{extra}]'.")
