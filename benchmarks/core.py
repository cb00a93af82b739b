"""What a contrastive meta-gradient costs now, beside another commit of the library.

    python benchmarks/core.py [--commit 3d7528f] [--rounds 5] [--turns 4] [--out results/core.json]

Of three meta-gradients (see `_core_side.py`): the time of a call, and the time from the start of a
fresh process, with nothing compiled kept, to its first result, also in processor seconds, which
other processes disturb less. The two sides take turns, so that both see the same load of the
machine, and change their order from round to round. Then the time of `import metacontrast`, of
both, over that of `import jax, optax`, in fresh processes too. Prints ratios, medians with
quartiles, and writes all as JSON. About five minutes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # for a file that is run by its path
from benchmarks._core_side import CASES
from benchmarks._measure import Measurement, summarise
from benchmarks._run import machine
from metacontrast.train import provenance, write_json

ROOT = Path(__file__).parents[1]
NOW, BEFORE, ALONE = "now", "before", "import jax, optax"
TOLERANCE = 1e-2  # of the gradients' norms: float32, divided by beta
IMPORT = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"
Sources = Mapping[str, Path]  # of each side, the folder that holds its package
Seconds = dict[str, list[float]]  # of each side, in every round or turn


class Side:
    """A process of one side, which has its first result and waits for its turns."""

    def __init__(self, case: str, source: Path) -> None:
        self._case, began = case, time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("_core_side.py")), case],
            env=environment(source),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.norm, self.first_cpu = self._numbers()
        self.first = time.perf_counter() - began

    def take_turn(self) -> float:
        """Seconds of one call."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return self._numbers()[0]

    def _numbers(self) -> list[float]:
        assert self._process.stdout is not None
        if not (line := self._process.stdout.readline()):
            raise OSError(f"{self._case}: its process ended with status {self._process.wait()}.")
        return [float(word) for word in line.split()]

    def end(self) -> None:
        """Its input ends, and so does it."""
        self._process.communicate()


class Times(NamedTuple):
    """Seconds of a call, one a turn; to the first result, one a round; and of processors to it."""

    call: Seconds
    first: Seconds
    first_cpu: Seconds


def time_case(case: str, sources: Sources, rounds: int, turns: int) -> Times:
    """One meta-gradient on both sides."""
    empty = lambda: {name: list[float]() for name in sources}
    times = Times(empty(), empty(), empty())
    for i in range(rounds):
        sides = {name: Side(case, sources[name]) for name in in_order(sources, i)}
        try:
            check_equal(case, {name: side.norm for name, side in sides.items()})
            for name, side in sides.items():
                times.first[name].append(side.first)
                times.first_cpu[name].append(side.first_cpu)
                side.take_turn()  # which says how many calls a block takes
            for _ in range(turns):
                for name, side in sides.items():
                    times.call[name].append(side.take_turn())
        finally:
            for side in sides.values():
                side.end()
    return times


def time_imports(sources: Sources, rounds: int) -> Seconds:
    """Of the library on each side, and of what it rests on, in every round."""
    seconds: Seconds = {name: [] for name in (*sources, ALONE)}
    for i in range(rounds):
        for name in in_order(seconds, i):
            module = "jax, optax" if name == ALONE else "metacontrast"
            command = [sys.executable, "-c", IMPORT.format(module)]
            env = environment(sources.get(name, ROOT / "src"))
            done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
            seconds[name].append(float(done.stdout))
    return seconds


def in_order(names: Mapping[str, Any], i: int) -> list[str]:
    """The names, in every other round backwards."""
    return list(names)[:: -1 if i % 2 else 1]


def environment(source: Path) -> dict[str, str]:
    """In which a process finds this source, and keeps nothing that it compiles."""
    return os.environ | {"PYTHONPATH": str(source), "JAX_ENABLE_COMPILATION_CACHE": "false"}


def check_equal(case: str, norms: Mapping[str, float]) -> None:
    """Raise unless both sides compute the same."""
    now, before = norms[NOW], norms[BEFORE]
    if not abs(now - before) <= TOLERANCE * before:
        raise ArithmeticError(f"{case}: a meta-gradient of norm {now}, and {before} before.")


def ratio(subject: str, quantity: str, seconds: Seconds, over: str) -> Measurement:
    """Of now over something else, round by round."""
    return summarise(subject, quantity, np.divide(seconds[NOW], seconds[over]))


@contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """The sources of a commit, in a worktree for the time being."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "before"
        git("worktree", "add", "--detach", str(tree), commit)
        try:
            yield tree / "src"
        finally:
            git("worktree", "remove", "--force", str(tree))


def git(*words: str) -> None:
    """A command on this checkout.

    Raises:
        OSError: with what git says of it.
    """
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"git {' '.join(words)}: {done.stderr.strip()}")


def compare(commit: str, cases: Sequence[str], rounds: int, turns: int) -> list[Measurement]:
    """Print and return the ratios of all cases, and of imports."""
    rows = []

    def report(m: Measurement) -> None:
        numbers = f"{m.value:8.3f} ({m.low:.3f}-{m.high:.3f})"
        print(f"{m.subject:20} {m.quantity:32} {numbers}", flush=True)
        rows.append(m)

    with checkout(commit) as before:
        sources = {NOW: ROOT / "src", BEFORE: before}
        for source in sources.values():  # what Python compiles is kept, on both sides
            subprocess.run([sys.executable, "-m", "compileall", "-q", str(source)], check=True)
        for case in cases:
            times = time_case(case, sources, rounds, turns)
            report(ratio(case, "a call, now / before", times.call, BEFORE))
            report(ratio(case, "first result, now / before", times.first, BEFORE))
            report(ratio(case, "its processor time, now / before", times.first_cpu, BEFORE))
            for name in sources:
                report(summarise(case, f"a call, {name} (ms)", 1e3 * np.array(times.call[name])))
                report(summarise(case, f"first result, {name} (s)", times.first[name]))
                report(summarise(case, f"its processor time, {name} (s)", times.first_cpu[name]))
        imports = time_imports(sources, rounds)
        report(ratio("import metacontrast", f"now / {ALONE}", imports, ALONE))
        report(ratio("import metacontrast", "now / before", imports, BEFORE))
        for name, seconds in imports.items():
            report(summarise("import metacontrast", f"{name} (s)", seconds))
    return rows


def main() -> None:
    """Print, and write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--commit", default="3d7528f", help="what is compared with")
    parser.add_argument("--rounds", type=int, default=5, help="fresh processes of each side")
    parser.add_argument("--turns", type=int, default=4, help="of each process, a block of calls")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "core.json")
    options = parser.parse_args()
    facts = {"commit": options.commit, "machine": machine(), **provenance()}
    rows = compare(options.commit, list(CASES), options.rounds, options.turns)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, facts | {"measurements": [m._asdict() for m in rows]})


if __name__ == "__main__":
    main()
