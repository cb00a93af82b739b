"""How often `suggest_beta` is within a factor of two of the best beta of a dense grid.

    python benchmarks/suggest_beta.py [--first SEED]

Two problems, four learners, three schemes, two types, twenty seeds each: 960 problems, about ten
minutes on two cores. The problems and the grid are those of the tests, which run ten of these 48
settings.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import jax
import numpy as np

TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "library")]
PROBLEMS, DTYPES = ("quadratic", "logistic"), ("float64", "float32")


def main() -> None:
    """Print a line a setting, and one of all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--first", type=int, default=2000, help="the first of twenty seeds")
    first = parser.parse_args().first
    jax.config.update("jax_enable_x64", True)
    cases: Any = import_module("test_suggest_beta")
    cases.SEEDS = range(first, first + 20)
    close = []
    for case in itertools.product(PROBLEMS, cases.SOLVERS, cases.SCHEMES, DTYPES):
        suggestion, error, best = cases.outcome(*case)
        ratio = np.asarray(error / best)
        close.append(np.mean(ratio <= 2))
        expected = np.median(np.asarray(suggestion.error / error))
        print(
            f"{', '.join(case):45} within two: {close[-1]:.2f}  worst: {ratio.max():.2f}  "
            f"expected over true error, median: {expected:.2f}",
            flush=True,
        )
    print(f"all: {np.mean(close):.3f}; lowest of a setting: {np.min(close):.2f}")


if __name__ == "__main__":
    main()
