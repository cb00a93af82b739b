"""Is a learned regulariser better than the best number? One lambda a weight, on CIFAR-10.

    python experiments/cifar10_l2.py --method weight --seed 0
    metacontrast report runs/cifar10-l2

LeNet-5 learns from 10,000 images, pulled to zero with a strength of its own for each of its 62,006
weights, meta-learned to lower the loss on 10,000 validation images. Then it learns once more, and
is tested on 10,000 others: against one lambda for all weights, the best on the validation images of
a grid ("grid"); the same, but the validation images are learned from too ("grid-both"); and none.
After the paper's experiment on CIFAR-10; departures, so that a CPU core suffices: two fifths of its
images, smaller batches, 1,000 steps of learning, 30 meta-steps; and no batch normalisation, and the
logarithm of lambda is learned.

Whoever learns, whether meta-learning or tested, does so from the same start, on the same batches in
the same order: a learner that repeats itself tells theta more, and lambda fits that learner. As in
`cifar10_overfit` learning stops early, and the slope that is left is taken out of the nudged phase,
which is on batches of its own.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, Self

import frame
import jax
import jax.numpy as jnp
import numpy as np
import optax
from _cifar10 import error, images, normalised, score, start
from jaxtyping import PyTree

import metacontrast as mc
from metacontrast.report import figure
from metacontrast.tasks import cifar10
from metacontrast.train import write_json

SCORES = "grid.json"
Learn = Callable[[PyTree], PyTree]  # theta -> phi


@dataclass(frozen=True, kw_only=True)
class Settings(frame.Settings):
    """What a run depends on. `seed` chooses the images, the start of learning and its batches."""

    images: int = 10_000  # To learn from.
    valid_images: int = 10_000  # Which choose lambda.
    free: int = 1000  # Steps of learning.
    batch: int = 100  # Images of a step of learning.
    rate: float = 0.02  # Of learning; falls to zero on a cosine.
    momentum: float = 0.9  # Of learning; Nesterov's.
    first_lambda: float = 1e-2  # Of every weight, where lambda is learned.
    outer_rate: float = 0.1  # Of Adam on log lambda; falls to zero on a cosine.
    valid_batch: int = 2000  # Validation images of a meta-step.
    # Chosen by the cosine of the first meta-gradient with backpropagation through all steps: the
    # curvature of single batches is noise, against which a large nudge and slow steps help.
    beta: float = 0.5  # The strength of the nudge.
    damping: float = 0.03  # Of the curvature along the nudge.
    nudged: int = 40  # Steps of the nudged phase.
    nudged_batch: int = 200  # Images of a step of it.
    nudged_rate: float = 0.01  # Of the nudged phase.
    nudged_momentum: float = 0.95  # Of the nudged phase.
    grid: tuple[float, ...] = (0.0, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)  # Numbers to choose from.

    def shorten(self) -> Self:
        """A tenth of the steps of learning too."""
        return replace(super().shorten(), free=self.free // 10)


_LEARNED = Settings(method="weight", steps=30)
METHODS = {
    "weight": _LEARNED,
    "layer": replace(_LEARNED, method="layer"),
    "grid": Settings(method="grid"),
    "grid-both": Settings(method="grid-both"),
    "none": Settings(method="none", grid=(0.0,)),
}
EXPERIMENT = frame.Experiment(
    "cifar10-l2",
    metric="accuracy in percent on CIFAR-10's test images",
    methods=METHODS,
    default="weight",
)


class Photographs(NamedTuple):
    """One seed's photographs."""

    learned: mc.Data
    valid: mc.Data
    statistics: np.ndarray  # by which both are normalised


def photographs(s: Settings) -> Photographs:
    """To learn from and to validate on, both of the training images."""
    (learned, valid), statistics = images(s.seed, s.images, s.valid_images)
    return Photographs(learned, valid, statistics)


def others(part: str, statistics: np.ndarray) -> mc.Data:
    """A part of CIFAR-10, normalised by the statistics of other images."""
    x, y = cifar10(part)
    return normalised(mc.Data(x.astype(np.float32) / 255, y), statistics)


def sample(key: jax.Array, data: mc.Data, n: int) -> mc.Data:
    """`n` of the examples, with replacement."""
    chosen = jax.random.randint(key, (n,), 0, data.y.shape[0])
    # Behind a barrier, or XLA would look each image up again for each of its patches.
    return jax.lax.optimization_barrier(mc.Data(data.x[chosen], data.y[chosen]))


def problem(s: Settings, learned: mc.Data, batch: int) -> mc.Problem:
    """LeNet-5, on `batch` of these images a step; theta are the logarithms of lambda.

    A task has but a few images to learn from, on which the inner loss is reported.
    """
    phi = start(s.seed)
    return mc.Problem(
        init=lambda theta, task: phi,
        inner=lambda phi, theta, z: error(phi, z.train) + mc.Synapse(log_lam=theta).pull(phi),
        outer=lambda phi, theta, z: error(phi, z.test),
        sample=lambda z, key: z._replace(train=sample(key, learned, batch)),
    )


def few(s: Settings, photos: Photographs) -> mc.Task:
    """A task as `problem` wants it."""
    key = jax.random.key(s.seed)
    return mc.Task(*(sample(key, part, s.batch) for part in (photos.learned, photos.valid)))


def learner(s: Settings, photos: Photographs, both: bool = False) -> Learn:
    """`theta -> phi`: learning from the same start, on the same batches in the same order.

    With `both`, the validation images are learned from too.
    """
    learned, task = photos.learned, few(s, photos)
    if both:
        learned = jax.tree.map(lambda *parts: jnp.concatenate(parts), learned, photos.valid)
    rate = optax.cosine_decay_schedule(s.rate, s.free)
    solver = mc.descend(optax.sgd(rate, s.momentum, nesterov=True), s.free)
    order = frame.first_key(s.seed)
    whole = problem(s, learned, s.batch)
    return jax.jit(lambda theta: mc.solve_inner(whole, solver, theta, task, order).phi)


class MetaLearner(NamedTuple):
    """What is meta-trained, how it is learned, and how the meta-gradient is obtained."""

    problem: mc.Problem
    solver: mc.Solver
    estimator: mc.Estimator


def meta_learner(s: Settings, learn: Learn, learned: mc.Data) -> MetaLearner:
    """Lambdas on trial: the free phase is `learn`; the batches of the problem are the nudged's."""
    nudged = mc.descend(optax.sgd(s.nudged_rate, s.nudged_momentum, nesterov=True), s.nudged)
    return MetaLearner(
        problem(s, learned, s.nudged_batch),
        mc.as_solver(lambda loss, phi: learn(loss.theta), samples=True),
        mc.Contrastive(s.beta, nudge="linear", nudged=nudged, damping=s.damping),
    )


def log_lambdas(s: Settings, lam: float) -> PyTree:
    """The same everywhere: of each weight, or of each matrix or vector as a whole."""
    value = math.log(max(lam, 1e-12))
    of = lambda leaf: jnp.full(leaf.shape if s.method == "weight" else (), value)
    return jax.tree.map(of, start(s.seed))


@jax.jit
def scores(phi: PyTree, data: mc.Data) -> tuple[jax.Array, jax.Array]:
    """Of each image the loss, and 100 where its class is recognised."""
    rows = math.gcd(data.y.shape[0], 1000)
    chunks = jax.tree.map(lambda leaf: leaf.reshape(-1, rows, *leaf.shape[1:]), data)
    losses, is_correct = jax.lax.map(lambda chunk: score(phi, chunk), chunks)
    return losses.ravel(), 100.0 * is_correct.ravel()


def meta_learned(s: Settings, learn: Learn, photos: Photographs) -> tuple[PyTree, float]:
    """The log lambdas with which the loss of the validation images was lowest; the seconds."""
    images_of_task = few(s, photos).train

    def validate(theta: PyTree) -> dict[str, float]:
        losses, is_correct = scores(learn(theta), photos.valid)
        return {"loss": float(jnp.mean(losses)), "accuracy": float(jnp.mean(is_correct))}

    trained = EXPERIMENT.meta_train(
        s,
        *meta_learner(s, learn, photos.learned),
        lambda key: mc.Task(images_of_task, sample(key, photos.valid, s.valid_batch)),
        log_lambdas(s, s.first_lambda),
        optax.adam(optax.cosine_decay_schedule(s.outer_rate, s.steps)),
        tasks=1,
        validate=validate,
        log_every=5,
        steps_per_dispatch=1,
    )
    return trained.best, trained.seconds


def best_number(s: Settings, learn: Learn, valid: mc.Data) -> tuple[PyTree, PyTree, float]:
    """The log lambda of the grid with which most of the images are right; phi; the seconds.

    A resumed run has the score of what it learned before, but not phi, which then is None.
    """
    path, began = EXPERIMENT.claim(s) / SCORES, time.perf_counter()
    accuracies = json.loads(path.read_text()) if path.is_file() else {}
    phis = {}
    for lam in s.grid:
        if str(lam) not in accuracies:
            phis[lam] = learn(log_lambdas(s, lam))
            accuracies[str(lam)] = float(jnp.mean(scores(phis[lam], valid)[1]))
            write_json(path, accuracies)
            print(f"lambda {lam:g}: {accuracies[str(lam)]:.2f} % of validation images", flush=True)
    best = float(max(accuracies, key=lambda lam: accuracies[lam]))
    return log_lambdas(s, best), phis.get(best), time.perf_counter() - began


def run(s: Settings) -> dict[str, Any]:
    """One method, one seed: find lambda, learn with it, test, write result.json and a figure."""
    photos, phi = photographs(s), None
    tests = frame.Tests(lambda part: others(part, photos.statistics))
    learn = learner(s, photos)
    if s.method in ("weight", "layer"):
        theta, seconds = meta_learned(s, learn, photos)
    else:
        s = replace(s, steps=0)
        theta, phi, seconds = best_number(s, learn, photos.valid)
    if s.method == "grid-both":
        phi = learner(s, photos, both=True)(theta)
    elif phi is None:
        phi = learn(theta)
    tests.chosen(theta)
    figure(EXPERIMENT.folder(s) / "lambda", partial(draw, theta), 1, 5, (2.2, 2.2))
    return EXPERIMENT.finish(
        s,
        scores(phi, tests.open())[1],
        seconds=seconds,
        log10_lambda=quartiles(theta),
        valid_accuracy=float(jnp.mean(scores(phi, photos.valid)[1])),
        learned_accuracy=float(jnp.mean(scores(phi, photos.learned)[1])),
    )


def quartiles(theta: PyTree) -> dict[str, list[float]]:
    """Those of log10 lambda, of each leaf of phi, as its name in the tree."""
    leaves = jax.tree_util.tree_leaves_with_path(theta)
    of = lambda leaf: np.quantile(np.asarray(leaf) / math.log(10), [0.25, 0.5, 0.75])
    return {jax.tree_util.keystr(path): of(leaf).tolist() for path, leaf in leaves}


def draw(theta: PyTree, axes: Any) -> None:
    """The lambdas of each layer's matrix."""
    for i, (ax, layer) in enumerate(zip(axes.flat, theta, strict=True)):
        values = np.asarray(layer["w"]).ravel() / math.log(10)
        ax.hist(values, bins=40, color=f"C{i}")
        ax.set(title=f"layer {i + 1}", xlabel="log10 lambda", yticks=[])


if __name__ == "__main__":
    EXPERIMENT.main(run)
