"""The command line's part about data: fetch, import, verify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import tyro

data = tyro.extras.SubcommandApp()
Name: TypeAlias = Annotated[str, tyro.conf.Positional]


@data.command
def fetch(name: Name) -> None:
    """Download the official files and import them; run it again to go on where it stopped.

    Args:
        name: omniglot, miniimagenet, cifar10 or mnist.
    """
    from .tasks._cache import cache_folder
    from .tasks._sources import fetch

    _print(fetch(name, cache_folder()))


@data.command(name="import")
def import_(name: Name, source: Path) -> None:
    """Import official files that are already here; nothing is unpacked beside them.

    Args:
        name: omniglot, miniimagenet, cifar10 or mnist.
        source: A folder with the official files.
    """
    from .tasks._cache import cache_folder
    from .tasks._sources import import_

    _print(import_(name, source, cache_folder()))


@data.command
def verify(name: Name) -> None:
    """Check counts, structure and checksums of what the cache has.

    Args:
        name: omniglot, miniimagenet, cifar10 or mnist.
    """
    from .tasks._cache import cache_folder
    from .tasks._sources import verify

    _print(verify(name, cache_folder()))


def _print(lines: list[str]) -> None:
    for line in lines:
        print(line)
