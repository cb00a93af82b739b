"""Memory of a meta-gradient against the number of inner steps.

    python benchmarks/memory.py [--out FOLDER]

Bytes of intermediate results that the compiler sets aside for one meta-gradient of one sine task
(network 1-40-40-1, gradient descent with momentum), which is what grows with backpropagation
through training. Nothing is run or timed, so the figures are the same each time. Prints a table;
writes memory.json, and memory.png where matplotlib is installed.
"""

import argparse
import json
from functools import partial
from pathlib import Path

import jax
import optax
from rich.console import Console
from rich.table import Table

import metacontrast as mc
from metacontrast.experiments import sine
from metacontrast.report import figure
from metacontrast.tasks import sine as draw

STEPS = (10, 100, 1_000, 10_000)
RULES = {
    "contrastive": mc.Contrastive(0.05),
    "contrastive, symmetric": mc.Contrastive(0.05, "symmetric"),
    "implicit, CG": mc.Implicit("cg", 10, damping=10.0),
    "unrolled, truncated to 10": mc.Unrolled(truncate=10),
    "unrolled, rematerialised": mc.Unrolled(remat=True),
    "unrolled": mc.Unrolled(),
}


def temporary_bytes(rule, steps):
    problem = sine.METHODS["cml-gd"].problem
    solve = mc.descend(optax.sgd(1e-3, 0.9), steps)
    loss = jax.jit(jax.grad(mc.meta_loss(problem, solve, rule)))
    compiled = loss.lower(sine.first_theta(0, 5.0), draw(jax.random.key(0))).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def draw_growth(measured, axes):
    ax = axes.flat[0]
    for marker, (name, sizes) in zip("os^Dvx", measured.items(), strict=True):
        ax.loglog(STEPS, [size / 1024 for size in sizes], marker + "-", ms=4, lw=1, label=name)
    ax.set_xlabel("inner steps")
    ax.set_ylabel("KiB of intermediate results")
    ax.legend(fontsize=7)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    measured = {name: [temporary_bytes(rule, n) for n in STEPS] for name, rule in RULES.items()}
    sheet = Table(title="KiB of intermediate results, and growth", title_justify="left")
    for column in ("rule", *(f"{n:,} steps" for n in STEPS), "last / first"):
        sheet.add_column(column, justify="left" if column == "rule" else "right")
    for name, sizes in measured.items():
        cells = [f"{size / 1024:,.0f}" for size in sizes]
        sheet.add_row(name, *cells, f"{sizes[-1] / sizes[0]:.2f}")
    Console(width=110).print(sheet)
    (out / "memory.json").write_text(json.dumps({"steps": STEPS} | measured, indent=2) + "\n")
    figure(out / "memory", partial(draw_growth, measured), 1, 1, (5.0, 3.6))


if __name__ == "__main__":
    main()
