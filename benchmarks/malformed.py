"""Does bad input end in an error that names it? Every public call, spoilt one argument at a time.

    python -m benchmarks.malformed [--out FILE] [--only MODULE] [--show KIND]

A valid call of every public name (`_malformed_calls`, `_malformed_rest`) is made with one argument
missing, one too many, or one that its annotation or its documented range excludes
(`_malformed_values`), which is decided before the call is made. Counted are

    named      an error whose first line begins with the argument's name, or quotes it
    obscure    another error
    silent     none

The share is of all of them. Needs the extras `sklearn`, `optimistix` and `torch`; some minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import io
import json
import re
import signal
import typing
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import metacontrast as mc
from benchmarks._malformed_calls import NOT_CALLED, Call, in_jax
from benchmarks._malformed_report import OUTCOMES, Row, summary, table
from benchmarks._malformed_values import malformed
from metacontrast.train import provenance

SECONDS = 20  # that a call may take; one that takes longer was not refused
COMMAND = "python -m benchmarks.malformed"


def spoilt(call: Call) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """`(argument, what is wrong with it, arguments)`, each malformed in one place."""
    parameters = inspect.signature(call.function).parameters
    hints = _hints(call.function)
    valid = dict(call.arguments)
    for name, parameter in parameters.items():
        if name not in valid:
            continue
        hint = hints.get(name)
        wrong = malformed(name, hint, valid[name], call.kinds.get(name), call.ranges.get(name))
        for what, value in wrong.items():
            yield name, what, {**valid, name: value}
        if parameter.default is parameter.empty:
            yield name, "missing", {n: value for n, value in valid.items() if n != name}
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        yield "nonsense", "one too many", {**valid, "nonsense": 1}


def _hints(function: Any) -> dict[str, Any]:
    function = inspect.unwrap(function)
    is_dataclass = inspect.isclass(function) and hasattr(function, "__dataclass_fields__")
    target = function if is_dataclass or not inspect.isclass(function) else function.__init__
    try:
        return typing.get_type_hints(target, include_extras=True)
    except (NameError, TypeError):  # of types that are imported for type checkers alone
        return {name: _hint(text) for name, text in target.__annotations__.items()}


def _hint(text: Any) -> Any:
    """What an annotation says by itself; of a class that is not known here, nothing."""
    scope = {"Scalar": float, "Scheme": Literal["symmetric", "forward"]}
    try:
        return eval(text, scope)
    except (NameError, TypeError):
        return _Unknown | None if "None" in text else _Unknown


class _Unknown:
    """Of this class is nothing."""


def outcome(call: Call, argument: str, arguments: dict[str, Any]) -> tuple[str, str]:
    """What becomes of it, and the first line of the error."""
    try:
        run(call, arguments)
    except TooLongError:
        return "silent", f"more than {SECONDS} seconds"
    except Exception as error:
        line = (str(error).splitlines() or [""])[0]
        return ("named" if names(line, argument) else "obscure"), f"{type(error).__name__}: {line}"
    return "silent", ""


def names(line: str, argument: str) -> bool:
    """Whether a line begins with the argument's name, or quotes it."""
    word = re.escape(argument)
    return bool(re.match(rf"{word}\b", line) or re.search(rf"(['\"`]){word}\1", line))


class TooLongError(BaseException):
    """That a call was given up."""


def run(call: Call, arguments: dict[str, Any]) -> None:
    """The call, quietly, within its time."""

    def give_up(*_: Any) -> None:
        raise TooLongError

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            call.function(**arguments)
    finally:
        signal.alarm(0)


def uncovered(calls: list[Call]) -> list[str]:
    """Public names of which there is no call."""
    there = {(call.module, re.split(r"[.( ]", call.name)[0]) for call in calls}
    modules = {"metacontrast": mc}
    modules |= {name: import_module(f"metacontrast.{name}") for name in mc._SUBPACKAGES}
    return [
        f"{short}.{name}"
        for short, module in modules.items()
        for name, value in vars(module).items()
        if not name.startswith("_") and not inspect.ismodule(value)
        if name not in NOT_CALLED and (short, name) not in there
    ]


def main() -> None:
    """Make all calls, print the table and write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/malformed.json"))
    parser.add_argument("--only", help="one module")
    parser.add_argument("--show", choices=OUTCOMES, help="print these calls one by one")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    from benchmarks._malformed_rest import beside_jax  # which needs the extras

    calls = [*in_jax(), *beside_jax()]
    if missing := uncovered(calls):
        raise SystemExit(f"no valid call of {', '.join(missing)}; add it to the tables")
    rows = []
    for call in calls:
        if options.only in (None, call.module):
            if call.works:
                run(call, dict(call.arguments))
            for argument, what, arguments in spoilt(call):
                said = outcome(call, argument, arguments)
                rows.append(Row(call.module, call.name, argument, what, *said))
                if rows[-1].outcome == options.show:
                    print(*rows[-1], sep=" | ", flush=True)
    found = summary(rows)
    print(table(found))
    left = [row._asdict() for row in rows if row.outcome != "named"]
    facts = {"command": COMMAND, "rates": found, **provenance(), "not_named": left}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
