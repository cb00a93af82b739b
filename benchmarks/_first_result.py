"""What the first result takes in a process of its own: time, and memory above what was imported."""

from __future__ import annotations

import json
import os
import pickle
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from ._sine import SineCase

ROOT = Path(__file__).parents[1]


class FirstResult(NamedTuple):
    """`seconds` of imports, building and the first meta-gradient; `mib` of peak memory for it."""

    seconds: float
    mib: float


# A library's own imports are timed before anything of ours, which would bring in JAX.
_CHILD = """
import time; began = time.perf_counter()
import {imports}
seconds = time.perf_counter() - began
from benchmarks._first_result import child
child({name!r}, seconds)
"""


def time_first_result(
    name: str, imports: tuple[str, ...], case: SineCase, threads: int | None = None
) -> FirstResult:
    """Of one method, in a fresh process without a cache of compiled programs.

    Memory is the process's largest resident set, less what it was when all was imported; what the
    compiler needs is part of it.

    Raises:
        OSError: the process failed; with the last line of its error.
    """
    code = _CHILD.format(imports=", ".join(imports), name=name)
    environment = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    environment |= {"OMP_NUM_THREADS": str(threads)} if threads else {}
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps(case),
        capture_output=True,
        env=environment,
        cwd=ROOT,
    )
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no error message"]
        raise OSError(f"{name}: its process ended with status {done.returncode}: {lines[-1]}")
    return FirstResult(**json.loads(done.stdout.splitlines()[-1]))


def child(name: str, importing: float) -> None:
    """In the fresh process: build, compute one meta-gradient, print what it took."""
    from ._methods import METHODS

    case = pickle.load(sys.stdin.buffer)
    before = _peak_mib()
    began = time.perf_counter()
    METHODS[name].make(case)()
    seconds = importing + time.perf_counter() - began
    print(json.dumps(FirstResult(seconds, _peak_mib() - before)._asdict()))


def _peak_mib() -> float:
    status = Path("/proc/self/status")
    if status.is_file():
        # Not ru_maxrss, which on Linux outlives exec: a child would start with its parent's peak.
        lines = status.read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # in bytes on macOS
