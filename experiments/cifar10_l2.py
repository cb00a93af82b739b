"""Is a learned regulariser better than the best number? One lambda a weight, on CIFAR-10.

    python experiments/cifar10_l2.py --method contrastive-anchored --seed 0
    metacontrast report runs/cifar10-l2

LeNet-5 learns from 5,000 images, pulled to zero with a strength of its own for each of its 62,006
weights, meta-learned to lower the loss on 5,000 validation images by one of seven meta-gradients;
or one for each layer ("layer"); against one lambda for all weights, the best on the validation
images of a grid ("grid"), and none. Whatever is found, LeNet-5 learns with it once more, and is
tested on 10,000 others, three times: from the same start on the same batches; from a new start on
new batches; and from the validation images too.

While meta-learning, LeNet-5 always learns from the same start, on the same batches in the same
order: a learner that repeats itself tells theta more, and lambda fits that learner.

All methods have the same budget of gradients by phi, counted in images: of a meta-step 25,000 for
learning and 8,000 for the meta-gradient, where a Hessian product counts as two. T1-T2, which needs
none, takes more meta-steps instead, and Trajectory, which needs two for each of learning, fewer.

After the paper's experiment on CIFAR-10; departures, so that minutes of a CPU core suffice: a fifth
of its images, batches of 50, 500 steps of learning, 20 meta-steps; no batch normalisation; and the
logarithm of lambda is learned.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import _cifar10
import frame
import jax
import jax.numpy as jnp
import numpy as np
import optax
from _cifar10 import nesterov, start
from _l2_learner import (
    Learn,
    Photographs,
    batches,
    in_order,
    learning,
    log_lambdas,
    others,
    photographs,
    problem,
    sample_task,
    scores,
)
from _l2_methods import LEARNED, METHODS, Settings, cost
from jaxtyping import PyTree

import metacontrast as mc
from metacontrast.report import figure
from metacontrast.train import write_json

SCORES = "grid.json"
NEW = 10_000  # added to a seed, draws another start and order of batches
LOOKS = 4  # at the validation images, beside the first
EXPERIMENT = frame.Experiment(
    "cifar10-l2",
    metric="accuracy in percent on CIFAR-10's test images",
    methods=METHODS,
    default="contrastive-anchored",
)


def estimator(s: Settings) -> mc.Estimator:
    """How the meta-gradient is obtained."""
    method = "contrastive-anchored" if s.method == "layer" else s.method
    rule = _cifar10.estimator(
        method,
        nesterov(s.nudged_rate, s.nudged_momentum, s.nudged),
        beta=s.beta,
        damping=s.damping,
        products=s.products,
        rate=s.series_rate,
    )
    assert rule is not None
    return rule


def meta_learned(s: Settings, learn: Learn, photos: Photographs) -> tuple[PyTree, float]:
    """The log lambdas with which the loss of the validation images was lowest; the seconds."""
    trained = EXPERIMENT.meta_train(
        s,
        problem(s.seed, batches(photos.learned, s.nudged_batch)),
        in_order(s, photos.learned, s.seed),
        estimator(s),
        partial(sample_task, s, photos),
        log_lambdas(s, s.first_lambda),
        optax.adam(optax.cosine_decay_schedule(s.outer_rate, s.steps)),
        tasks=1,
        validate=lambda theta: validated(learn(theta), photos.valid),
        log_every=math.ceil(s.steps / LOOKS),
        steps_per_dispatch=1,
    )
    return trained.best, trained.seconds


def validated(phi: PyTree, valid: mc.Data) -> dict[str, float]:
    """The mean loss, by which lambda is chosen, and the accuracy."""
    losses, is_correct = scores(phi, valid)
    return {"loss": float(jnp.mean(losses)), "accuracy": float(jnp.mean(is_correct))}


def best_number(s: Settings, learn: Learn, valid: mc.Data) -> tuple[PyTree, float]:
    """The log lambda of the grid with which the validation loss is lowest; the seconds.

    A resumed run knows the scores of what it learned before.
    """
    path, began = EXPERIMENT.claim(s) / SCORES, time.perf_counter()
    known = json.loads(path.read_text()) if path.is_file() else {}
    for lam in s.grid:
        if str(lam) not in known:
            known[str(lam)] = validated(learn(log_lambdas(s, lam)), valid)
            write_json(path, known)
            loss, accuracy = known[str(lam)].values()
            print(f"lambda {lam:g}: validation loss {loss:.4f}, {accuracy:.2f} %", flush=True)
    best = float(min(known, key=lambda lam: known[lam]["loss"]))
    return log_lambdas(s, best), time.perf_counter() - began


def judged(
    s: Settings, learn: Learn, photos: Photographs, theta: PyTree, test: mc.Data
) -> dict[str, Any]:
    """LeNet-5 with this regulariser: of each test image whether it is right, 100, and the rest.

    "same": from the start and on the batches with which lambda was found. "new": from others.
    "both": from that start, but from the validation images too, in as many steps.
    """
    same = learn(theta)
    accuracy = lambda data: float(jnp.mean(scores(same, data)[1]))
    found = {"valid": accuracy(photos.valid), "learned": accuracy(photos.learned)}
    new = learning(s, photos.learned, s.seed + NEW)(theta)
    both = learning(s, photos.both, s.seed)(theta)
    tested = {"same": same, "new": new, "both": both}
    return {name: scores(phi, test)[1] for name, phi in tested.items()} | found


def run(s: Settings) -> dict[str, Any]:
    """One method, one seed: find lambda, learn with it, test, write result.json and a figure."""
    photos = photographs(s)
    tests = frame.Tests(lambda part: others(part, photos.statistics))
    learn = learning(s, photos.learned, s.seed)
    if s.method in LEARNED:
        theta, seconds = meta_learned(s, learn, photos)
    else:
        s = replace(s, steps=0)
        theta, seconds = best_number(s, learn, photos.valid)
    tests.chosen(theta)
    found = judged(s, learn, photos, theta, tests.open())
    same = found.pop("same")
    accuracies: dict[str, Any] = {f"{k}_accuracy": float(jnp.mean(x)) for k, x in found.items()}
    spread = histograms(theta)
    figure(EXPERIMENT.folder(s) / "lambda", partial(draw, spread), 1, 5, (2.2, 2.2))
    return EXPERIMENT.finish(
        s,
        same,
        seconds=seconds,
        image_gradients=s.steps * cost(s),
        log10_lambda=quartiles(theta),
        histograms=spread,
        **accuracies,
    )


def quartiles(theta: PyTree) -> dict[str, list[float]]:
    """Those of log10 lambda, of each leaf of theta, as its name in the tree."""
    leaves = jax.tree_util.tree_leaves_with_path(theta)
    of = lambda leaf: np.quantile(np.asarray(leaf) / math.log(10), [0.25, 0.5, 0.75])
    return {jax.tree_util.keystr(path): of(leaf).tolist() for path, leaf in leaves}


def histograms(theta: PyTree) -> list[dict[str, Any]]:
    """Of log10 lambda of each layer's matrix: how many are in each of 40 equal bins."""
    network = start(0)
    # Of a layer as a whole it is one number.
    of_each = lambda lam, leaf: np.broadcast_to(lam, leaf.shape)
    lams = jax.tree.map(of_each, jax.tree.broadcast(theta, network), network)
    found = []
    for matrix in (x for x in jax.tree.leaves(lams) if x.ndim > 1):
        counts, edges = np.histogram(matrix.ravel() / math.log(10), bins=40)
        ends = {"from": float(edges[0]), "to": float(edges[-1])}
        found.append(ends | {"counts": counts.tolist()})
    return found


def draw(histograms: Sequence[Mapping[str, Any]], axes: Any) -> None:
    """The lambdas of each layer's matrix."""
    for i, (ax, of) in enumerate(zip(axes.flat, histograms, strict=True)):
        edges = np.linspace(of["from"], of["to"], len(of["counts"]) + 1)
        ax.stairs(of["counts"], edges, fill=True, color=f"C{i}")
        ax.set(title=f"layer {i + 1}", xlabel="log10 lambda", yticks=[])


if __name__ == "__main__":
    EXPERIMENT.main(run)
