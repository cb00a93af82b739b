"""How soon a user sees something: importing the library, and a short sine run, cold and warm.

    python benchmarks/startup.py [--out startup.json] [--repeats 3]

Of `metacontrast run sine --quick` in a process of its own: seconds to the first line of metrics, to
`result.json`, and to its end (with the figure drawn and the result printed). Cold: nothing compiled
is kept from earlier. Warm: a second run with what the first compiled. Prints medians with the
fastest and slowest, and writes all as JSON. About two minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUN = "from metacontrast.cli import main; main()"
FIRST = "first line of metrics"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("startup.json"))
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    found: dict[str, list[float]] = {}
    for _ in range(args.repeats):
        for name, seconds in once().items():
            found.setdefault(name, []).append(seconds)
    for name, seconds in found.items():
        median = statistics.median(seconds)
        print(f"{name:34} {median:6.2f} s ({min(seconds):.2f} to {max(seconds):.2f})")
    args.out.write_text(json.dumps(found, indent=2) + "\n")


def once() -> dict[str, float]:
    """Seconds of an import, a cold run and a warm one."""
    began = time.time()
    subprocess.run([sys.executable, "-c", "import metacontrast"], check=True)
    found = {"import": time.time() - began}
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("cold", "warm"):
            took = run(Path(folder), kind)
            found |= {f"{kind}: {name}": seconds for name, seconds in took.items()}
    return found


def run(folder: Path, kind: str) -> dict[str, float]:
    """Seconds to the milestones of one run."""
    out = folder / kind
    env = os.environ | {"METACONTRAST_COMPILED": str(folder / "compiled")}
    command = [sys.executable, "-c", RUN, "run", "sine", "--quick", "--out", str(out)]
    began, first = time.time(), 0.0
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env=env, **quiet) as process:
        while process.poll() is None:
            metrics = out / "metrics.jsonl"
            if not first and metrics.exists() and metrics.stat().st_size:
                first = time.time() - began
            time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    result = (out / "result.json").stat().st_mtime - began
    return {FIRST: first, "result.json": result, "end": time.time() - began}


if __name__ == "__main__":
    main()
