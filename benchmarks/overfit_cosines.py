"""How near is each first meta-gradient of `cifar10_overfit` to backpropagation through training?

    python -m benchmarks.overfit_cosines [--seeds N] [--result FILE]

The cosine of the first gradient by 62,006 log lambdas, of each method and seed, with `Unrolled`
through all 100 steps; that of `Trajectory`, which goes another way, is beside them. Five minutes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import metacontrast as mc
from benchmarks._kept import keep
from metacontrast._directional import cosine

sys.path.append(str(Path(__file__).parents[1] / "experiments"))
import cifar10_overfit as experiment

COMMAND = "python -m benchmarks.overfit_cosines"


def cosines(seed: int) -> dict[str, float]:
    """Of each method's first meta-gradient with the exact one."""
    methods = [replace(s, seed=seed) for s in experiment.METHODS.values()]
    exact = experiment.first_gradient(methods[0], mc.Unrolled(remat=True))
    found = {}
    for s in methods:
        if (rule := experiment.estimator(s)) is not None:
            found[s.method] = cosine(experiment.first_gradient(s, rule), exact)
            print(f"seed {seed}, {s.method}: {found[s.method]:.4f}", flush=True)
    return found


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Nearest first."""
    of = {method: [row["cosines"][method] for row in rows] for method in rows[0]["cosines"]}
    lines = [f"{'seed':<24}" + "".join(f"{row['seed']:>8}" for row in rows)]
    for method, each in sorted(of.items(), key=lambda item: -min(item[1])):
        lines.append(f"{method:<24}" + "".join(f"{x:>8.3f}" for x in each))
    return "\n".join(lines)


def main() -> None:
    """Print the table, and write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--result", type=Path, help="write the rows there")
    options = parser.parse_args()
    rows = [{"seed": seed, "cosines": cosines(seed)} for seed in range(options.seeds)]
    print(table(rows))
    keep(options.result, COMMAND, rows=rows)


if __name__ == "__main__":
    main()
