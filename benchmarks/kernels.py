"""How often does a run on a CPU go wrong by XLA's YNN kernels? The same start, process by process.

    python -m benchmarks.kernels [--processes N] [--precisions NAME ...] [--result FILE]

Ten meta-steps of `omniglot.py --method cml-head`, seed 0, on one core: with all bits and with the
network in emulated TF32, each with these kernels, with those of products alone, and with none. New
memory is filled with noise (`MALLOC_PERTURB_=165`), and all processes of a kind run one program,
compiled once. Some fifteen seconds a process.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from benchmarks._characters import omniglot, trained
from benchmarks._kept import keep
from benchmarks._precision_report import ENDS, kernels
from metacontrast._xla import OPTION
from tests.precision import LOW, rounded  # noqa: F401 - which emulates it in this process

COMMAND = "python -m benchmarks.kernels"
# Of products and of sums, as XLA has it by itself; of products alone; none.
FUSIONS = "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT", "LIBRARY_FUSION_TYPE_REDUCE"
KERNELS = {"both": ",".join(FUSIONS), "products": FUSIONS[0], "none": ""}
PRECISIONS = ("highest", LOW[0])
PATIENCE = 120  # seconds, after which a process stands still


def learn(precision: Any, out: Path) -> None:
    """Ten meta-steps."""
    jax.config.update("jax_default_matmul_precision", "highest")  # as in every experiment
    s = replace(
        omniglot.for_kind("cml-head"), steps=10, views=0, valid_tasks=2, validations=1, seed=0,
        precision=precision, diagnose=False, out=out,
    )  # fmt: skip
    trained(s, 2)


def outcome(precision: str, fusions: str, folder: Path) -> str:
    """Of one process: "right", "diverged" or "stood still"."""
    out = tempfile.mkdtemp(dir=folder)
    command = [sys.executable, "-m", "benchmarks.kernels", "--learn", precision, "--out", out]
    env = os.environ | {
        "XLA_FLAGS": f"--{OPTION}={fusions}", "MALLOC_PERTURB_": "165", "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
    }  # fmt: skip
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return "stood still"
    if done.returncode == 0:
        return "right"
    if "DivergedError" not in done.stderr:
        raise RuntimeError(done.stderr)
    return "diverged"


def main() -> None:
    """Print the table, and write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--processes", type=int, default=20)
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--result", type=Path, help="write the rows there")
    parser.add_argument("--learn", choices=PRECISIONS, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.learn:
        learn(options.learn, options.out)
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    found: dict[tuple[str, str], Counter[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.processes):  # in turns
            for precision in options.precisions:
                for name, fusions in KERNELS.items():
                    kind = found.setdefault((precision, name), Counter())
                    kind[outcome(precision, fusions, Path(folder))] += 1
    rows = [
        {"precision": precision, "kernels": name, "processes": kind.total()}
        | {key: kind[key] for key in ENDS}
        for (precision, name), kind in found.items()
    ]
    print(kernels(rows))
    keep(options.result, COMMAND, rows=rows)


if __name__ == "__main__":
    main()
