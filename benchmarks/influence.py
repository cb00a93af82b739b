"""Influence of training examples: does it predict retraining, and better than other methods do.

    python -m benchmarks.influence [--seeds N] [--result FILE [--resume]]

A network and a transformer learn 500 digits, a tenth labelled at random, by Adam in mini-batches.
The linear datamodelling score: 52 random halves of the examples are trained on anew, and of each of
20 test images the loss is compared, by Spearman's rank correlation over the halves, with the sum of
the scores of the examples that were left in; mean over the test images. Once with the very run that
the scores are of (start and batches the same, examples left out by a weight of 0), and once with
fresh runs (of the network): mean loss of two, and scores averaged over two others.

Beside `mc.influence`, of the same weights, where they are installed (`pip install kronfluence
traker`): EK-FAC (Grosse et al., 2023) and TRAK (Park et al., 2023). Five minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import spearmanr

import metacontrast as mc
from metacontrast.train import provenance

from ._influence_learners import (
    EXAMPLES,
    LEARNERS,
    QUERIES,
    Images,
    Learner,
    cross_entropy,
    digits,
    first,
    problem,
)  # fmt: skip

HALVES, AT_ONCE, RUNS, FRESH = 52, 13, 2, 2
# Of more at once `Unrolled` of the transformer gets the sixth and on wrong (jax 0.10.2, on a CPU).
QUERIES_AT_ONCE = 5
DIMENSIONS = 128  # of TRAK's projection: the best of 32 to 512, on another seed
METHODS: dict[str, mc.Estimator] = {
    "unrolled, exact": mc.Unrolled(remat=True),
    "trajectory": mc.Trajectory(),
    "equilibrium, damped": mc.Contrastive(
        None, "symmetric", nudge="linear", nudged=mc.secant_cg(100, 1e-3), damping=0.3
    ),
}
Scores = np.ndarray  # (runs, queries, examples), of which positive ones raise the loss


class Setting(NamedTuple):
    """A learner, its data, and the runs that scores are of: where they start, and their keys."""

    learner: Learner
    images: Images
    starts: Any
    keys: jax.Array

    def part(self, runs: slice) -> Setting:
        """Some of its runs."""
        starts = jax.tree.map(lambda a: a[runs], self.starts)
        return self._replace(starts=starts, keys=self.keys[runs])


def setting(learner: Learner, seed: int) -> Setting:
    """That of one seed: first the runs that scores are of, then fresh ones."""
    keys = jax.random.split(jax.random.key(seed), 2 * (RUNS + FRESH)).reshape(2, -1)
    starts = jax.vmap(partial(first, learner.name))(keys[0])
    return Setting(learner, digits(seed), starts, keys[1])


def task(images: Images, w: jax.Array) -> dict[str, jax.Array]:
    """The examples and their weights."""
    return {"x": images.x, "y": images.y, "w": w}


def losses_of(learner: Learner, images: Images, phi: Any) -> jax.Array:
    """Of the test images."""
    return cross_entropy(learner.logits(phi, images.query_x), images.query_y)


# Each is compiled once for all seeds.
@cache
def influences(learner: Learner, method: mc.Estimator) -> Callable[..., mc.Influence]:
    """`(start, key, images) -> mc.influence`."""
    learned, solver = problem(learner)

    def of_run(theta: Any, key: jax.Array, images: Images) -> mc.Influence:
        query = lambda phi, theta, z: losses_of(learner, images, phi)
        return mc.influence(
            learned, solver, theta, task(images, jnp.ones(EXAMPLES)), query,
            weights=lambda z: z["w"], method=method, key=key, query_batch_size=QUERIES_AT_ONCE,
        )  # fmt: skip

    return jax.jit(of_run)


@cache
def trained(learner: Learner) -> Callable[..., Any]:
    """`(start, key, images, w) -> phi`."""
    learned, solver = problem(learner)
    train = lambda theta, key, images, w: (
        mc.solve_inner(learned, solver, theta, task(images, w), key).phi
    )
    return jax.jit(train)


@cache
def retrained(learner: Learner) -> Callable[..., jax.Array]:
    """`(start, key, images, halves) -> losses` of learners that saw half of the examples."""

    def losses(theta: Any, key: jax.Array, images: Images, halves: jax.Array) -> jax.Array:
        of_half = lambda w: losses_of(learner, images, trained(learner)(theta, key, images, w))
        return jax.lax.map(of_half, halves, batch_size=AT_ONCE)

    return jax.jit(losses)


def of_each(function: Callable[..., Any], at: Setting, *more: Any) -> list[Any]:
    """What a function of a run gives for each."""
    pick = lambda i: jax.tree.map(lambda a: a[i], at.starts)
    found = [function(pick(i), at.keys[i], at.images, *more) for i in range(len(at.keys))]
    return jax.device_get(found)


def rivals(at: Setting) -> dict[str, Callable[[], Scores]]:
    """EK-FAC and TRAK of the same weights, where they are installed."""
    if not find_spec("torch"):
        return {}
    import torch

    from . import _torch_influence as torch_side

    torch.set_num_threads(1)
    phis = of_each(trained(at.learner), at, jnp.ones(EXAMPLES))
    nets = [torch_side.ported(at.learner.name, phi) for phi in phis]
    # Theirs are positive where an example helps.
    made: dict[str, tuple[str, Callable[[], Scores]]] = {
        "kronfluence": (
            "EK-FAC", lambda: -np.stack([torch_side.ekfac(net, at.images) for net in nets])
        ),
        "trak": (
            "TRAK", lambda: -np.stack([torch_side.trak(net, at.images, DIMENSIONS) for net in nets])
        ),
    }  # fmt: skip
    return {name: scores for package, (name, scores) in made.items() if find_spec(package)}


def score(scores: np.ndarray, halves: np.ndarray, losses: np.ndarray) -> float | None:
    """The linear datamodelling score of scores (queries, examples) and losses (halves, queries).

    None where the scores are not finite, which is flagged.
    """
    if not np.all(np.isfinite(scores)):
        return None
    predicted = halves @ scores.T
    ranks = [spearmanr(predicted[:, q], losses[:, q]).statistic for q in range(QUERIES)]
    return float(np.mean(ranks))


def measure(learner: Learner, seed: int) -> dict[str, Any]:
    """All methods on one seed."""
    everything = setting(learner, seed)
    runs = RUNS if learner.fresh else 1
    at, fresh = everything.part(slice(runs)), everything.part(slice(RUNS, None))
    draw = np.random.default_rng(seed)
    order = np.argsort(draw.random((HALVES, EXAMPLES)), axis=1)
    halves = (order < EXAMPLES // 2).astype(np.float32)
    (same,) = of_each(retrained(learner), at.part(slice(1)), halves)
    others = np.mean(of_each(retrained(learner), fresh, halves), 0) if learner.fresh else None
    row: dict[str, Any] = {"learner": learner.name, "seed": seed}
    row |= {"same": {}, "fresh": {}, "seconds": {}, "flags": {}}
    by_name = {}

    def add(name: str, compute: Callable[[], Scores]) -> None:
        began = time.process_time()
        scores = by_name[name] = compute()
        row["seconds"][name] = (time.process_time() - began) / runs
        row["same"][name] = score(scores[0], halves, same)
        if others is not None:
            row["fresh"][name] = score(np.mean(scores, 0), halves, others)
        print(learner.name, seed, name, row["same"][name], row["fresh"].get(name), flush=True)

    def own(name: str, method: mc.Estimator) -> Scores:
        found = of_each(influences(learner, method), at)
        scores, _, aux = jax.tree.map(lambda *each: np.stack(each), *found)
        flags = aux["flags"]._asdict()
        row["flags"][name] = {f: float(np.mean(up)) for f, up in flags.items() if np.any(up)}
        if "error" in aux:
            row["expected"] = float(np.max(aux["error"]))
            row["growth"] = float(np.max(aux["growth"]))
        return scores

    for name, method in METHODS.items():
        add(name, partial(own, name, method))
    for name, compute in rivals(at).items():
        add(name, compute)
    exact, steps = (by_name[name][0] for name in ("unrolled, exact", "trajectory"))
    row["error"] = float(np.linalg.norm(steps - exact) / np.linalg.norm(exact))
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """A line a method: mean and range over the seeds, of both scores, for each learner."""
    lines = [f"{'':22}{'the same run':>22}{'fresh runs':>22}{'seconds':>9}"]
    for learner in dict.fromkeys(row["learner"] for row in rows):
        of = [row for row in rows if row["learner"] == learner]
        lines.append(learner)
        for name in of[0]["same"]:
            cells = [
                [row[kind][name] for row in of if row[kind].get(name) is not None]
                for kind in ("same", "fresh")
            ]
            spread = lambda c: f"{statistics.mean(c):.3f} ({min(c):.3f}-{max(c):.3f})" if c else "-"
            text = "".join(f"{spread(c):>22}" for c in cells)
            seconds = statistics.median(row["seconds"][name] for row in of)
            lines.append(f"  {name:20}{text}{seconds:9.1f}")
    return "\n".join(lines)


def main() -> None:
    """Print a line a method, and the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--learner", choices=[learner.name for learner in LEARNERS])
    parser.add_argument("--result", type=Path, help="write all figures there, seed by seed")
    parser.add_argument("--resume", action="store_true", help="only what is not there yet")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    if options.resume and options.result.is_file():
        rows = json.loads(options.result.read_text(encoding="utf-8"))["rows"]
    known = {(row["learner"], row["seed"]) for row in rows}
    seeds = list(range(options.first, options.first + options.seeds))
    facts = {"command": "python -m benchmarks.influence", "seeds": seeds} | provenance()
    for learner in LEARNERS:
        for seed in seeds:
            if (learner.name, seed) in known or options.learner not in (None, learner.name):
                continue
            rows.append(measure(learner, seed))
            if options.result:
                text = json.dumps(facts | {"rows": rows}, indent=1)
                options.result.write_text(text + "\n", encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    main()
