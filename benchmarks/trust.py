"""Is `diagnose` right? Its verdicts on random configurations, beside exact differentiation.

    python benchmarks/trust.py [--configurations N] [--first SEED] [--out FILE] [--figure FILE]

Quadratics, logistic regression, tanh and ReLU networks; SGD, momentum and Adam for 20 to 250 steps;
full batches and half ones, with and without dropout and batch norm, in float32 and bfloat16; five
rules, beta from 0.001 to 2. What is exact is backpropagation through the very steps that were taken
(`Unrolled`). A run that was stopped goes on where it was. About half an hour on two cores, which
`--share I/N` splits: every process does one share and the last line is of all that FILE holds.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.flatten_util import ravel_pytree

import metacontrast as mc
from benchmarks._kept import keep
from benchmarks._trust_problems import build, draw
from metacontrast._directional import cosine
from metacontrast.train._result import plain

RIGHT = 0.9  # the cosine from which on an estimate was to be trusted
VERDICTS = ("trust", "doubt", "do not trust")
COMMAND = "python -m benchmarks.trust"


def judge(seed: int) -> dict[str, Any]:
    """One configuration: what `diagnose` says of it, and what is true."""
    configuration = draw(seed)
    problem, solver, rule, theta, z, key = build(configuration)
    began = time.perf_counter()
    said = mc.diagnose(problem, solver, rule, theta, z, key)
    seconds = time.perf_counter() - began

    def gradient(estimator: mc.Estimator) -> np.ndarray:
        run = jax.jit(mc.meta_gradient(problem, solver, estimator, by_z=False))
        return np.asarray(ravel_pytree(run(theta, z, key).by_theta)[0], np.float64)

    exact, estimate = gradient(mc.Unrolled()), gradient(rule)
    row = asdict(configuration) | {
        "verdict": said.verdict,
        "expected_cosine": said.cosine,
        "expected_error": said.error,
        "cosine": cosine(estimate, exact),
        "error": float(np.linalg.norm(estimate - exact) / np.linalg.norm(exact)),
        "flags": list(said.flags),
        "linear_residual": said.linear_residual,
        "advice": said.advice,
        "seconds": seconds,
    }
    if said.proposal is not None:
        row["proposal_expected_cosine"] = said.proposal.cosine
        row["proposal_cosine"] = cosine(gradient(said.proposal.estimator), exact)
    return {name: plain(x) for name, x in row.items()}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The confusion table, and how often each verdict was right."""
    known = [row for row in rows if row["error"] is not None or row["cosine"] is not None]
    is_right = lambda row: row["cosine"] is not None and row["cosine"] > RIGHT
    table = {
        verdict: {
            "right": sum(is_right(row) for row in known if row["verdict"] == verdict),
            "wrong": sum(not is_right(row) for row in known if row["verdict"] == verdict),
        }
        for verdict in VERDICTS
    }
    share = lambda cell, name: cell[name] / max(1, sum(cell.values()))
    tried = [row for row in known if row.get("proposal_expected_cosine")]
    better = [row for row in tried if row["proposal_expected_cosine"] > RIGHT]
    return {
        "configurations": len(rows),
        "without_truth": len(rows) - len(known),
        "table": table,
        "trust_is_right": share(table["trust"], "right"),
        "do_not_trust_is_right": share(table["do not trust"], "wrong"),
        "proposals_above": len(better),
        "of_which_right": sum((row["proposal_cosine"] or 0) > RIGHT for row in better),
    }


def report(found: dict[str, Any]) -> str:
    """The confusion table in words."""
    lines = [f"{'':14}{'cosine > 0.9':>14}{'at most':>10}"]
    for verdict, cell in found["table"].items():
        lines.append(f"{verdict:14}{cell['right']:>14}{cell['wrong']:>10}")
    lines.append(
        f"trust is right in {found['trust_is_right']:.1%}, do not trust in "
        f"{found['do_not_trust_is_right']:.1%}; of {found['proposals_above']} proposals that "
        f"were expected to be right {found['of_which_right']} were"
    )
    return "\n".join(lines)


def figure(rows: list[dict[str, Any]], path: Path) -> None:
    """The error that was expected against the one that was measured."""
    from metacontrast.report import figure as drawing

    def draw_errors(grid: Any) -> None:
        axes = grid[0, 0]
        marks = {"trust": "oC2", "doubt": "sC1", "do not trust": "^C3"}
        for verdict, mark in marks.items():
            points = [
                (row["error"], row["expected_error"])
                for row in rows
                if row["verdict"] == verdict and row["error"] and row["expected_error"]
            ]
            if points:
                label = f"{verdict} ({len(points)})"
                axes.loglog(*zip(*points, strict=True), mark, ms=4, alpha=0.8, label=label)
        axes.plot([1e-4, 1e3], [1e-4, 1e3], color="0.7", lw=1, zorder=0)
        axes.set_xlim(1e-4, 1e3)
        axes.set_ylim(1e-4, 1e3)
        axes.set_xlabel("measured error, relative")
        axes.set_ylabel("error expected by diagnose")
        axes.legend()

    drawing(path, draw_errors, size=(5.0, 4.0))


def main() -> None:
    """Judge what is not in the file yet, then print the table of all that is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--configurations", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--share", default="0/1", help="which part of them: I/N, I from 0")
    parser.add_argument("--out", type=Path, default=Path("runs/trust.jsonl"))
    parser.add_argument("--result", type=Path, help="write rows and summary there")
    parser.add_argument("--figure", type=Path, help="draw the errors there, without a suffix")
    options = parser.parse_args()
    part, parts = map(int, options.share.split("/"))
    # Small networks, each compiled six times and run a few: compiling is all that takes time.
    jax.config.update("jax_disable_most_optimizations", True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    seeds = range(options.first, options.first + options.configurations)
    done = {row["seed"] for row in _read(options.out)}
    for seed in [s for s in seeds if s % parts == part and s not in done]:
        row = judge(seed)
        with options.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{seed}: {row['verdict']}, cosine {row['cosine']}", flush=True)
    rows = sorted((r for r in _read(options.out) if r["seed"] in seeds), key=lambda r: r["seed"])
    found = summary(rows)
    print(report(found))
    keep(options.result, COMMAND, seeds=[seeds[0], seeds[-1]], **found, rows=rows)
    if options.figure:
        figure(rows, options.figure)


def _read(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


if __name__ == "__main__":
    main()
