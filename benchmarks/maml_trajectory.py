"""Is MAML's start learned as well by `Trajectory` as by backpropagation? On Omniglot.

    python -m benchmarks.maml_trajectory [--seeds N] [--result FILE]

20-way 1-shot tasks, five inner steps of a network with ReLU and batch normalisation (16 filters a
layer, 2 tasks a meta-step, 600 meta-steps at ten times the rate: far from done, and the same for
both). Each seed is meta-trained by both; the last thetas are judged on the same 300 tasks of
validation classes, and at each of them both meta-gradients of the same 12 training tasks are
compared. A few minutes a seed on one core.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree

import metacontrast as mc
from benchmarks._characters import learner, omniglot, trained
from benchmarks._kept import keep
from metacontrast.tasks import episodes
from metacontrast.train import half_width

METHODS = ("maml", "maml-trajectory")
JUDGED, COMPARED = 300, 12  # tasks
COMMAND = "python -m benchmarks.maml_trajectory"


def settings(method: str, seed: int, runs: Path) -> omniglot.Settings:
    """Of a run that goes on where it was."""
    return replace(
        omniglot.METHODS[method], seed=seed, filters=(16, 16, 16, 16), tasks=2, steps=600,
        outer_rate=1e-2, views=0, valid_tasks=20, validations=1, diagnose=False, resume=True,
        out=runs / f"{method}-seed{seed}",
    )  # fmt: skip


def cosines(thetas: list[PyTree], s: omniglot.Settings) -> list[float]:
    """Of both meta-gradients, one for each theta and training task."""
    one = learner(s, channels=1)
    draw = episodes(
        omniglot.classes(s).images("train"), s.way, s.shot, s.queries, rotations=True,
        distort=s.distort,
    )  # fmt: skip

    @jax.jit
    def both(theta: PyTree, key: jax.Array) -> list[jax.Array]:
        rules = mc.Unrolled(), mc.Trajectory()
        each = [mc.meta_gradient(one.problem(), one.solver(), r, by_z=False) for r in rules]
        return [ravel_pytree(gradient(theta, draw(key)).by_theta)[0] for gradient in each]

    found = []
    for theta in thetas:
        for key in jax.random.split(jax.random.key(s.seed + 1000), COMPARED):
            a, b = both(theta, key)
            found.append(float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))
    return found


def row(seed: int, runs: Path) -> dict[str, Any]:
    """Both accuracies, their difference task by task, and the least cosine at both thetas."""
    several = [settings(method, seed, runs) for method in METHODS]
    (one, exact), (other, by_contrasts) = (trained(s, JUDGED) for s in several)
    return {
        "seed": seed,
        "maml": float(np.mean(exact)),
        "maml-trajectory": float(np.mean(by_contrasts)),
        "difference": float(np.mean(by_contrasts - exact)),
        "half_width": half_width(by_contrasts - exact),
        "least_cosine": min(cosines([one, other], several[0])),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Accuracies in percent; the difference with half its 95% interval over tasks."""
    lines = ["seed  Unrolled  Trajectory  difference       least cosine of the gradients"]
    lines += [
        f"{r['seed']:4}  {r['maml']:8.2f}  {r['maml-trajectory']:10.2f}  "
        f"{r['difference']:+.2f} +- {r['half_width']:.2f}  {r['least_cosine']:.6f}"
        for r in rows
    ]
    differences = np.array([r["difference"] for r in rows])
    spread = f" +- {half_width(differences):.2f} over seeds" if len(rows) > 1 else ""
    return "\n".join([*lines, f"mean difference {np.mean(differences):+.2f}{spread}"])


def main() -> None:
    """Print the table, and write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path("runs/maml-trajectory"))
    parser.add_argument("--result", type=Path, help="write the rows there")
    options = parser.parse_args()
    jax.config.update("jax_default_matmul_precision", "highest")  # as in every experiment
    rows = []
    for seed in range(options.seeds):
        rows.append(row(seed, options.runs))
        print(rows[-1], flush=True)
    print(table(rows))
    keep(options.result, COMMAND, tasks=JUDGED, rows=rows)


if __name__ == "__main__":
    main()
