"""How soon a user sees something: importing the library, and a short sine run, cold and warm.

    python benchmarks/startup.py [--out startup.json] [--repeats 3]

Of `python experiments/sine.py --quick` in a process of its own: seconds to the first line of
metrics, to `result.json`, and to its end (with the figure drawn and the result printed). Cold:
nothing compiled is kept from earlier. Warm: a second run with what the first compiled. Prints
medians with the fastest and slowest, and writes all as JSON. About two minutes.
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

SINE = Path(__file__).parents[1] / "experiments" / "sine.py"
FIRST = "first line of metrics"


def main() -> None:
    """Print, and write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("startup.json"))
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    results: dict[str, list[float]] = {}
    for _ in range(options.repeats):
        for name, seconds in once().items():
            results.setdefault(name, []).append(seconds)
    for name, values in results.items():
        median = statistics.median(values)
        print(f"{name:34} {median:6.2f} s ({min(values):.2f} to {max(values):.2f})")
    options.out.write_text(json.dumps(results, indent=2) + "\n")


def once() -> dict[str, float]:
    """Seconds of an import, a cold run and a warm one."""
    began = time.time()
    subprocess.run([sys.executable, "-c", "import metacontrast"], check=True)
    result = {"import": time.time() - began}
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("cold", "warm"):
            milestones = run(Path(folder), kind)
            result |= {f"{kind}: {name}": seconds for name, seconds in milestones.items()}
    return result


def run(folder: Path, kind: str) -> dict[str, float]:
    """Seconds to the milestones of one run."""
    out = folder / kind
    env = os.environ | {"METACONTRAST_COMPILED": str(folder / "compiled")}
    command = [sys.executable, str(SINE), "--quick", "--out", str(out)]
    began, first = time.time(), 0.0
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, env=env, stdout=quiet, stderr=quiet) as process:
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
