"""The command line's part about data: fetch, import, verify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

data = typer.Typer(no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="omniglot, miniimagenet, cifar10 or mnist.")]


@data.command()
def fetch(name: Name) -> None:
    """Download the official files and import them; run it again to go on where it stopped."""
    from .tasks._cache import cache_folder
    from .tasks._sources import fetch

    _say(fetch(name, cache_folder()))


@data.command("import")
def import_(
    name: Name,
    source: Annotated[Path, typer.Option(help="A folder with the official files.")],
) -> None:
    """Import official files that are already here; nothing is unpacked beside them."""
    from .tasks._cache import cache_folder
    from .tasks._sources import import_

    _say(import_(name, source, cache_folder()))


@data.command()
def verify(name: Name) -> None:
    """Check counts, structure and checksums of what the cache has."""
    from .tasks._cache import cache_folder
    from .tasks._sources import verify

    _say(verify(name, cache_folder()))


def _say(lines: list[str]) -> None:
    for line in lines:
        typer.echo(line)
