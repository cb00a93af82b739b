"""Fails the build where a public name has no place in the API reference.

Public is what a public package's `__init__` binds without an underscore in front: the same list
that arguments are checked by.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError

import metacontrast


def public_names() -> set[str]:
    """As they are imported, with their package: `metacontrast.train.meta_train`."""
    packages = ["metacontrast", *(f"metacontrast.{name}" for name in metacontrast._SUBPACKAGES)]
    return {
        f"{package.__name__}.{name}"
        for package in map(importlib.import_module, packages)
        for name in dir(package)
        if not name.startswith("_") and not isinstance(getattr(package, name), ModuleType)
    }


def check(app: Sphinx, env: BuildEnvironment) -> None:
    """Every public name is an entry of the reference, and the reference has no others."""
    listed = set(env.domaindata["py"]["objects"])
    missing = sorted(public_names() - listed)
    if missing:
        raise ExtensionError(
            f"docs/api: {', '.join(missing)}: public, but not in the API reference. Add each to "
            "the page of its package."
        )


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls it."""
    app.connect("env-check-consistency", check)
    return {"parallel_read_safe": True}
