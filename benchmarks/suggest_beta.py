"""How often `suggest_beta` is within a factor of two of the best beta of a dense grid.

    python benchmarks/suggest_beta.py [--first SEED]

Two problems, four learners, three schemes, two types, twenty seeds each: 960 problems, about ten
minutes on two cores. The problems and the grid are those of the tests, which run ten of these 48
settings.
"""

import argparse
import itertools
import sys
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--first", type=int, default=2000, help="the first of twenty seeds")
    jax.config.update("jax_enable_x64", True)
    import test_suggest_beta as cases

    first = parser.parse_args().first
    cases.SEEDS = range(first, first + 20)
    close = []
    dtypes = ("float64", "float32")
    for case in itertools.product(cases.PROBLEMS, cases.SOLVERS, cases.SCHEMES, dtypes):
        found, error, best = cases.outcome(*case)
        ratio = np.asarray(error / best)
        close.append(np.mean(ratio <= 2))
        told = np.median(np.asarray(found.error / error))
        print(
            f"{', '.join(case):45} within two: {close[-1]:.2f}  worst: {ratio.max():.2f}  "
            f"expected over true error, median: {told:.2f}",
            flush=True,
        )
    print(f"all: {np.mean(close):.3f}; lowest of a setting: {np.min(close):.2f}")


if __name__ == "__main__":
    main()
