"""Packages that only some users need."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


def optional(module: str, extra: str) -> ModuleType:
    """Import a module of an extra; if it is absent, say how to install it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{module.partition('.')[0]}: not installed; pip install 'metacontrast[{extra}]'."
        ) from error
