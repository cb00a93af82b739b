"""The command line: list, run, table, data, demo, bench."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from ._data_cli import data
from ._devices_cli import with_devices
from .experiments import EXPERIMENTS

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Meta-learning by contrast: the experiments of the talk, and tables of their results.",
)


class _Experiments(typer.core.TyperGroup):
    """One command an experiment, imported only when it is asked for: each brings in JAX."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(EXPERIMENTS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in EXPERIMENTS:
            return None
        one = typer.Typer(add_completion=False)
        one.command(cmd_name)(_experiment(cmd_name).main)
        return with_devices(typer.main.get_command(one))


run = typer.Typer(cls=_Experiments, no_args_is_help=True)
app.add_typer(run, name="run", help="Run one experiment: metacontrast run EXPERIMENT --help.")
app.add_typer(data, name="data", help="Get the data sets of the image experiments, and check them.")


@run.callback()
def _run() -> None:
    """Run one experiment."""
    from ._compiled import keep_compiled

    keep_compiled()


@app.command("list")
def list_() -> None:
    """Print the experiments and their methods."""
    for name, what in EXPERIMENTS.items():
        typer.echo(f"{name:16} {what}")
        typer.echo(f"{'':16} methods: {', '.join(_experiment(name).METHODS)}")


@app.command()
def table(
    experiment: Annotated[str, typer.Argument(help="One of those that `list` prints.")],
    runs: Annotated[Path, typer.Option(help="Where to look for results, at any depth.")] = Path(
        "runs"
    ),
) -> None:
    """Print our figures beside the talk's, over all seeds found; mark what was not run."""
    from .report import print_table

    print_table(_experiment(experiment), runs)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the runs; they resume.")] = Path("runs/demo"),
) -> None:
    """Meta-learn sine regression and print the talk's table with our figures: a few minutes."""
    from ._compiled import keep_compiled
    from .experiments.sine import demo

    keep_compiled()
    demo(out)


@app.command("bench")
def bench_(
    part: Annotated[
        str | None, typer.Argument(help="overhead, sine, conv4, accuracy or growth. Default: all.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes, in about a minute.")] = False,
    out: Annotated[Path, typer.Option(help="Folder of figures and tables.")] = Path("runs/bench"),
    resume: Annotated[bool, typer.Option("--resume", help="Only parts not yet in OUT.")] = False,
) -> None:
    """Measure speed and memory: against bare learners, other libraries, and size."""
    from .bench import bench

    bench(part, quick, out, resume)


def _experiment(name: str) -> Any:
    if name not in EXPERIMENTS:
        raise ValueError(f"experiment: unknown {name!r}; choose one of {', '.join(EXPERIMENTS)}.")
    return import_module(f".experiments.{name.replace('-', '_')}", __package__)


def main() -> None:
    """Run the command line; bad input ends with one line on stderr and exit status 2."""
    try:
        app()
    except (ValueError, TypeError, ArithmeticError, OSError) as error:
        typer.secho(f"metacontrast: {error}", fg=typer.colors.RED, err=True)
        raise SystemExit(2) from error
