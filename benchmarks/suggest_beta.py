"""How often `suggest_beta` is within a factor of two of the best beta of a dense grid.

    python benchmarks/suggest_beta.py [--first SEED] [--noisy] [--out results/suggest-beta.json]

Two problems, four learners, three schemes, two types, twenty seeds each: 960 problems, about ten
minutes on two cores. With `--noisy` three problems that sample instead, of two numbers of steps and
two schemes, ten seeds each, where the error is the root mean square over 16 keys. The problems and
the grids are those of the tests, which run a part of these settings.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # for a file that is run by its path
from benchmarks._run import machine
from metacontrast.train import provenance

TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "library")]
PROBLEMS, DTYPES = ("quadratic", "logistic"), ("float64", "float32")


def noisy(cases: Any, out: Path | None, first: int) -> None:
    """Print a line a setting of the learners that are noisy, and write all ratios."""
    rows = {}
    for case in itertools.product(cases.NOISY, (30, 150), ("forward", "symmetric")):
        _, error, best = cases.noisy_outcome(*case)
        name = ", ".join(map(str, case))
        rows[name] = np.sort(error / best).tolist()
        print(f"{name:35} within two: {np.mean(error <= 2 * best):.2f}", flush=True)
    share = float(np.mean([ratio <= 2 for ratios in rows.values() for ratio in ratios]))
    print(f"all: {share:.3f}")
    command, seeds = "python benchmarks/suggest_beta.py --noisy", [first, first + 9]
    facts: dict[str, Any] = {"command": command, "seeds": seeds}
    if out is not None:
        facts |= {"machine": machine(), **provenance(), "within_two": share}
        out.write_text(json.dumps(facts | {"ratios": rows}, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Print a line a setting, and one of all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--first", type=int, default=2000, help="the first of twenty seeds")
    parser.add_argument("--noisy", action="store_true", help="learners whose batches are noisy")
    parser.add_argument("--out", type=Path, help="where the numbers of the noisy ones are written")
    first = parser.parse_args().first
    jax.config.update("jax_enable_x64", True)
    cases: Any = import_module("test_suggest_beta")
    cases.SEEDS = range(first, first + 20)
    if parser.parse_args().noisy:
        noisy(cases, parser.parse_args().out, first)
        return
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
