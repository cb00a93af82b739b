"""The options of every experiment that say on which devices it runs."""

from __future__ import annotations

import re
import sys
from functools import partial
from io import StringIO
from typing import Annotated, Any

import typer

_option = partial(typer.Option, rich_help_panel="Devices")


def _devices(
    devices: Annotated[
        int | None,
        _option(help="Spread the tasks over so many; on a CPU, over so many of its cores."),
    ] = None,
    mesh: Annotated[
        str | None,
        _option(help="Devices as TASKSxPARAMETERS: 2x4 also splits the parameters by 4."),
    ] = None,
    distributed: Annotated[
        bool,
        _option("--distributed", help="This is one of several processes; the cluster says which."),
    ] = False,
    coordinator: Annotated[
        str | None, _option(help="HOST:PORT of process 0, if no cluster says it.")
    ] = None,
    processes: Annotated[int | None, _option(help="How many processes there are.")] = None,
    process: Annotated[int | None, _option(help="Which one this is, from 0.")] = None,
) -> None:
    if not distributed and all(x is None for x in (devices, mesh, coordinator, processes, process)):
        return
    from .train import is_first, use_devices

    use_devices(
        devices,
        _shape(mesh),
        distributed=distributed,
        coordinator=coordinator,
        processes=processes,
        process=process,
    )
    if not is_first():  # it would say what the first one says
        sys.stdout = StringIO()


def _shape(mesh: str | None) -> tuple[int, int] | None:
    if mesh is None:
        return None
    found = re.fullmatch(r"(\d+)x(\d+)", mesh)
    if not found:
        raise ValueError(f"mesh: must be TASKSxPARAMETERS, as in 2x1, not {mesh!r}.")
    return int(found[1]), int(found[2])


def with_devices(command: Any) -> Any:
    """The command of an experiment, with the options above; they are heeded before it starts."""
    one = typer.Typer(add_completion=False)
    one.command()(_devices)
    first: Any = typer.main.get_command(one)
    options = [option for option in first.params if option.name != "help"]
    start, then = first.callback, command.callback

    def both(**given: Any) -> Any:
        start(**{option.name: given.pop(option.name) for option in options})
        return then(**given)

    command.params += options
    command.callback = both
    return command
