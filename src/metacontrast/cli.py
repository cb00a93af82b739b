"""The command line. Experiments have their own, beside the library."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ._data_cli import data
from ._exit import INTERRUPTED, SAID, terminated_in_words
from ._version import __version__

COMMANDS = ("demo", "report", "watch", "data", "completion")
_GO_ON = ". What was finished is kept; see to it, and start it again, a run with --resume."
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
def report(
    runs: Annotated[Path, tyro.conf.Positional] = Path("runs"),
    html: Path | None = None,
    collect: Path | None = None,
) -> None:
    """Print a table of the results of each experiment, over all seeds found; mark what was not run.

    Args:
        runs: Where to look for results, at any depth.
        html: Also write a page there, of curves, flags, figures, settings and commands.
        collect: Keep them: a small file of each experiment, in this folder.
    """
    from . import report as results

    if html is not None:
        print(f"Page: {results.write_page(runs, html)}")
    if html is None or any(runs.rglob("result.json")):
        results.print_report(runs)
    if collect is not None:
        for path in results.collect(runs, collect):
            print(f"Collected: {path}")


@app.command
def watch(
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional] = (Path("runs"),), every: float = 1.0
) -> None:
    """Show runs as they go: rate, time left, losses, flags; off a terminal, a line each.

    Args:
        runs: Folders of runs, or folders that hold some.
        every: Seconds from one look to the next.
    """
    from .report import watch as show

    show(runs, every)


@app.command
def completion(shell: Annotated[Literal["bash", "zsh"], tyro.conf.Positional]) -> None:
    """Print a script of completions: eval "$(metacontrast completion bash)" in a shell's profile.

    Args:
        shell: Which shell it is for.
    """
    app.cli(prog="metacontrast", args=["--tyro-print-completion", shell])


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
    except (ValueError, TypeError, ArithmeticError, OSError, ImportError) as error:
        if not is_bad_input(error):
            raise
        of_the_system = isinstance(error, OSError) and error.errno is not None
        print(f"{program}: {error}{_GO_ON if of_the_system else ''}", file=sys.stderr)
        raise SystemExit(2) from error


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """What is said of a word that is none of the names: those it is near, and all there are.

    Example:
        >>> did_you_mean("fecth", ["fetch", "verify"])
        "unknown 'fecth'; did you mean 'fetch'? Choose one of fetch, verify"
        >>> did_you_mean("x", ["fetch", "verify"])
        "unknown 'x'; choose one of fetch, verify"
    """
    names = list(names)
    near = " or ".join(map(repr, get_close_matches(word, names, 2)))
    choose = f"did you mean {near}? Choose" if near else "choose"
    return f"unknown {word!r}; {choose} one of {', '.join(names)}"


def main() -> None:
    """Run the command line."""
    words = sys.argv[1:] or ["--help"]
    with ends_in_words("metacontrast"):
        if words == ["--version"]:
            print(f"metacontrast {__version__}")
            return
        if words[0] not in COMMANDS and not words[0].startswith("-"):
            raise ValueError(
                f"command: {did_you_mean(words[0], COMMANDS)}; experiments are beside the library, "
                "python experiments/NAME.py."
            )
        app.cli(
            prog="metacontrast",
            description="Meta-learning by contrast: a demonstration, tables of results, a view of"
            " runs, data sets. --version says which version it is.",
            args=words,
        )
