"""The command line: demo, report, data. Experiments have their own, beside the library."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import tyro

from ._data_cli import data
from ._exit import INTERRUPTED, SAID, terminated_in_words

BROKEN_PIPE = 128 + 13  # the exit status of what SIGPIPE ends

app = tyro.extras.SubcommandApp()


@app.command
def demo(out: Path = Path("runs/demo")) -> None:
    """Meta-learn sine regression, in minutes, and print how well new sines are learned.

    Args:
        out: Folder of the runs; they resume.
    """
    from . import _demo
    from ._compiled import keep_compiled

    keep_compiled()
    _demo.demo(out)


@app.command
def report(runs: Annotated[Path, tyro.conf.Positional] = Path("runs")) -> None:
    """Print a table of the results of each experiment, over all seeds found; mark what was not run.

    Args:
        runs: Where to look for results, at any depth.
    """
    from .report import print_report

    print_report(runs)


app.command(data, name="data", help="Get the data sets of the image experiments, and check them.")


def is_bad_input(error: Exception) -> bool:
    """Whether one line tells it all, as errors do that name an argument first.

    Any other is a fault of the program, which must show where it is.
    """
    named = re.match(r"[\w.-]+(, [\w.-]+)*: ", str(error)) is not None
    return named or isinstance(error, ArithmeticError | OSError)


@contextmanager
def ends_in_words(program: str) -> Iterator[None]:
    """Bad input ends in one line on stderr and exit status 2, and a closed pipe in no word.

    So does Ctrl-C, with status 130, and SIGTERM, with 143; a run says what of it is kept.
    """
    try:
        with terminated_in_words():
            yield
            sys.stdout.flush()
    except KeyboardInterrupt as stop:
        print(f"{program}: {str(stop) or SAID}", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from stop
    except BrokenPipeError as error:
        # What is still to be written goes nowhere, or Python would complain of it when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(BROKEN_PIPE) from error
    except (ValueError, TypeError, ArithmeticError, OSError) as error:
        if not is_bad_input(error):
            raise
        print(f"{program}: {error}", file=sys.stderr)
        raise SystemExit(2) from error


def main() -> None:
    """Run the command line."""
    with ends_in_words("metacontrast"):
        app.cli(
            prog="metacontrast",
            description="Meta-learning by contrast: a demonstration, tables of results, data sets.",
            args=sys.argv[1:] or ["--help"],
        )
