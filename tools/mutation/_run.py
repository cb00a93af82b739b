"""Tests of a mutant, in a copy of the checkout and in a fork of a process that has imported JAX."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

COPIED = ("src", "tests", "experiments", "benchmarks", "docs", "examples", "tools")
FILES = ("pyproject.toml", "conftest.py", "README.md", "CHANGELOG.md", "CONTRIBUTING.md")
# What every test needs and no mutant changes is imported once. No part of it starts a thread.
HEAVY = ["pytest", "hypothesis", "numpy", "scipy.special", "jax", "jax.numpy", "jax.scipy", "optax"]
HEAVY += ["equinox", "jaxtyping", "PIL", "tqdm"]
OPTIONS = ["-x", "-q", "-p", "no:cacheprovider", "-n", "0", "--no-header", "--tb=line"]
# Among what is imported are plugins of pytest, which it says it cannot rewrite.
# Of every tier: some files are held by the thorough one alone.
OPTIONS += ["-m", ""]
OPTIONS += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
# A mutant's programs are read, not kept: they would fill the disk and never be met again.
NEVER = "1e9"


@dataclass(frozen=True)
class Outcome:
    """`passed`, `failed`, `timeout`, `crash` (by a signal), or `broken`: pytest did not start."""

    what: str
    seconds: float
    tail: str


def copy(checkout: Path, to: Path) -> None:
    """The parts that tests read, with compiled programs that are kept from one copy to the next."""
    to.mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        shutil.rmtree(to / name, ignore_errors=True)
        if (checkout / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(checkout / name, to / name, ignore=ignored)
    for name in FILES:
        shutil.copy(checkout / name, to / name)


def import_heavy() -> None:
    """In the parent, before the forks; and nothing is kept of what they compile to bytecode."""
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    for name in HEAVY:
        importlib.import_module(name)


def run(tests: list[str], folder: Path, timeout: float, keep: bool = False) -> Outcome:
    """pytest on `tests` of the copy, one after the other, until one fails; `keep` what compiles."""
    began, said = time.monotonic(), folder / "said.txt"
    child = os.fork()
    if not child:
        _child(tests, folder, said, keep)
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() - began > timeout:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return Outcome("timeout", timeout, "")
        time.sleep(0.05)
    lines = said.read_text(errors="replace").strip().splitlines()
    tail = [line for line in lines if line.startswith(("FAILED", "ERROR"))][:1] or lines[-2:]
    code = os.waitstatus_to_exitcode(ended[1])
    return Outcome(_meaning(code, tail), time.monotonic() - began, " | ".join(tail)[-400:])


def _child(tests: list[str], folder: Path, said: Path, keep: bool) -> None:
    """Never returns."""
    os.setsid()
    os.chdir(folder)
    os.environ["PYTHONPATH"] = str(folder / "src")  # of the processes that tests start
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0" if keep else NEVER
    out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    code = 99
    try:
        import pytest

        code = int(pytest.main([*OPTIONS, *tests]))
        sys.stdout.flush()
    finally:
        os._exit(code)


def _meaning(code: int, tail: list[str]) -> str:
    if code < 0:
        return "crash"
    if code == 0:
        return "passed"
    # 2 is an import that fails while tests are collected.
    return (
        "failed" if code in (1, 2) and "".join(tail).startswith(("FAILED", "ERROR")) else "broken"
    )
