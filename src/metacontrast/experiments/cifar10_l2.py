"""Is a learned regulariser better than the best number? One lambda a weight, on CIFAR-10.

    metacontrast run cifar10-l2 --method weight --seed 0
    metacontrast table cifar10-l2

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
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import typer

import metacontrast as mc

from ..report import figure
from ..tasks import cifar10
from ..train import meta_train, open_folder, summarise, write_json, write_result
from ._cifar10 import NET, error, images, judged, normalised
from ._common import Out, Quick, Resume, Seed, Steps, first_key, folder, shortened

NAME = "cifar10-l2"
METRIC = "accuracy in percent on CIFAR-10's 10,000 test images"
LEARNED, VALID = 10_000, 10_000
GRID = (0.0, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
METHODS = ("weight", "layer", "grid", "grid-both", "none")
REFERENCE = dict.fromkeys(METHODS, "")
SCORES = "grid.json"


@dataclass(frozen=True)
class Settings:
    """What a run depends on besides its method and seed."""

    steps: int = 30  # meta-steps
    learned_steps: int = 1000
    batch: int = 100  # images of a step of learning
    rate: float = 0.02  # falls to zero on a cosine
    first_lambda: float = 1e-2
    outer_rate: float = 0.1  # falls to zero on a cosine
    shown: int = 2000  # validation images that a meta-step sees
    # Chosen by the cosine of the first meta-gradient with backpropagation through all steps: the
    # curvature of single batches is noise, against which a large nudge and slow steps help.
    beta: float = 0.5
    damping: float = 0.03
    nudged_steps: int = 40
    nudged_batch: int = 200
    nudged_rate: float = 0.01
    nudged_momentum: float = 0.95


class Photographs(NamedTuple):
    """One seed's photographs."""

    learned: mc.Data
    valid: mc.Data
    test: mc.Data


def photographs(seed: int) -> Photographs:
    """To learn from, to validate on, both of the training images; and the test images."""
    (learned, valid), statistics = images(seed, LEARNED, VALID)
    x, y = cifar10("test")
    return Photographs(
        learned, valid, normalised(mc.Data(x.astype(np.float32) / 255, y), statistics)
    )


def some(key: jax.Array, data: mc.Data, n: int) -> mc.Data:
    """`n` of the examples, with replacement."""
    chosen = jax.random.randint(key, (n,), 0, data.y.shape[0])
    # Behind a barrier, or XLA would look each image up again for each of its patches.
    return jax.lax.optimization_barrier(mc.Data(data.x[chosen], data.y[chosen]))


def problem(start: Any, learned: mc.Data, batch: int) -> mc.Problem:
    """LeNet-5 from `start`, on `batch` of these images a step; theta are the logarithms of lambda.

    The task needs to have but a few images to learn from, by which the inner loss is told.
    """
    return mc.Problem(
        init=lambda theta, task: start,
        inner=lambda phi, theta, z: error(phi, z.train) + mc.attraction(phi, log_lam=theta),
        outer=lambda phi, theta, z: error(phi, z.test),
        sample=lambda z, key: z._replace(train=some(key, learned, batch)),
    )


class Learner:
    """The photographs, the start of one seed, and how it is learned from there.

    `solve` learns on the same batches in the same order, whatever batches the problem draws, which
    are those of nudged phases; `learn` is `theta -> phi`.
    """

    def __init__(
        self, seed: int, settings: Settings, photos: Photographs, both: bool = False
    ) -> None:
        """With `both` the validation images are learned from too."""
        self.seed, self.settings, self.photos = seed, settings, photos
        learned, valid, _ = photos
        if both:
            learned = jax.tree.map(lambda *parts: jnp.concatenate(parts), learned, valid)
        key = jax.random.key(seed)
        self.start = NET.init(key)
        self.few = mc.Task(*(some(key, part, settings.batch) for part in photos[:2]))
        self.problem = problem(self.start, learned, settings.nudged_batch)
        alone = problem(self.start, learned, settings.batch)
        rate = optax.cosine_decay_schedule(settings.rate, settings.learned_steps)
        steps = mc.descend(optax.sgd(rate, 0.9, nesterov=True), settings.learned_steps)
        order = first_key(seed)
        self.solve = lambda loss, phi: steps(replace(loss, problem=alone, key=order), phi)
        self.learn = jax.jit(
            lambda theta: mc.learn(self.problem, self.solve, theta, self.few, order).phi
        )


def first_theta(name: str, start: Any, lam: float) -> Any:
    """The same log lambda everywhere: of each weight, or of each matrix or vector as a whole."""
    of = lambda leaf: jnp.full(leaf.shape if name == "weight" else (), math.log(max(lam, 1e-12)))
    return jax.tree.map(of, start)


@jax.jit
def told(phi: Any, data: mc.Data) -> tuple[jax.Array, jax.Array]:
    """Of each image the loss, and 100 where its class is told."""
    rows = math.gcd(data.y.shape[0], 1000)
    chunks = jax.tree.map(lambda leaf: leaf.reshape(-1, rows, *leaf.shape[1:]), data)
    losses, right = jax.lax.map(lambda chunk: judged(phi, chunk), chunks)
    return losses.ravel(), 100.0 * right.ravel()


def main(
    method: Annotated[str, typer.Option(help=f"One of {', '.join(METHODS)}.")] = "weight",
    seed: Seed = 0,
    steps: Steps = None,
    out: Out = None,
    resume: Resume = False,
    quick: Quick = False,
) -> None:
    """Meta-learn a regulariser of LeNet-5, and test what it learns with it."""
    result = run(method, seed, steps, out, resume, quick)
    print(f"{method}, seed {seed}: {result['value']:.2f} +- {result['ci95']:.2f} ({METRIC})")


def run(
    name: str,
    seed: int = 0,
    steps: int | None = None,
    out: Path | None = None,
    resume: bool = False,
    quick: bool = False,
) -> dict[str, Any]:
    """One method, one seed: find lambda, learn with it, test, write result.json and a figure."""
    out = folder(NAME, METHODS, name, seed, out)
    settings = shortened(Settings(), steps, quick)
    if quick:
        settings = replace(settings, learned_steps=settings.learned_steps // 10)
    config = {"experiment": NAME, "method": name, "seed": seed}
    photos, phi = photographs(seed), None
    learner = Learner(seed, settings, photos)
    if name in ("weight", "layer"):
        theta, seconds = _meta_learned(name, learner, config, out, resume)
    else:
        theta, phi, seconds = _of_the_grid(name, learner, config, out, resume)
    if name == "grid-both":
        phi = Learner(seed, settings, photos, both=True).learn(theta)
    elif phi is None:
        phi = learner.learn(theta)
    accuracies = {part: told(phi, data)[1] for part, data in photos._asdict().items()}
    result = summarise(
        accuracies["test"],
        experiment=NAME,
        method=name,
        metric=METRIC,
        seeds=[seed],
        meta_steps=settings.steps if name in ("weight", "layer") else 0,
        seconds=seconds,
        reference=REFERENCE[name],
        log10_lambda=_of_layers(theta),
        valid_accuracy=float(jnp.mean(accuracies["valid"])),
        learned_accuracy=float(jnp.mean(accuracies["learned"])),
    )
    write_result(out, result)
    figure(out / "lambda", partial(_draw, theta), 1, 5, (2.2, 2.2))
    return result


def _meta_learned(
    name: str, learner: Learner, config: dict[str, Any], out: Path, resume: bool
) -> tuple[Any, float]:
    """The lambdas with which the loss of the validation images was lowest; and the seconds."""
    settings, photos = learner.settings, learner.photos
    nudged = mc.descend(
        optax.sgd(settings.nudged_rate, settings.nudged_momentum, nesterov=True),
        settings.nudged_steps,
    )

    def draw(key: jax.Array) -> mc.Task:
        return mc.Task(learner.few.train, some(key, photos.valid, settings.shown))

    def valid(theta: Any) -> dict[str, float]:
        losses, right = told(learner.learn(theta), photos.valid)
        return {"loss": float(jnp.mean(losses)), "accuracy": float(jnp.mean(right))}

    trained = meta_train(
        learner.problem,
        learner.solve,
        mc.LinearNudge(settings.beta, "forward", nudged=nudged, damping=settings.damping),
        draw,
        first_theta(name, learner.start, settings.first_lambda),
        optax.adam(optax.cosine_decay_schedule(settings.outer_rate, settings.steps)),
        steps=settings.steps,
        tasks=1,
        seed=learner.seed,
        out=out,
        resume=resume,
        config=config | {"schedule": settings.steps} | _kept(settings),
        every=5,
        chunk=1,
        valid=valid,
    )
    return trained.best, trained.seconds


def _kept(settings: Settings) -> dict[str, Any]:
    return {k: v for k, v in asdict(settings).items() if k != "steps"}


def _of_the_grid(
    name: str, learner: Learner, config: dict[str, Any], out: Path, resume: bool
) -> tuple[Any, Any, float]:
    """The lambda with which most of the validation images are told right, or none; phi; seconds.

    A resumed run has the score of what it learned before, but not phi, which then is None.
    """
    out = open_folder(out, config | {"grid": GRID} | _kept(learner.settings), resume)
    began, found, learned = time.perf_counter(), {}, {}
    if (out / SCORES).is_file():
        found = json.loads((out / SCORES).read_text())
    for lam in GRID[:1] if name == "none" else GRID:
        if str(lam) not in found:
            learned[lam] = learner.learn(first_theta(name, learner.start, lam))
            found[str(lam)] = float(jnp.mean(told(learned[lam], learner.photos.valid)[1]))
            write_json(out / SCORES, found)
            print(f"lambda {lam:g}: {found[str(lam)]:.2f} % of validation images", flush=True)
    best = float(max(found, key=lambda lam: found[lam]))
    theta = first_theta(name, learner.start, best)
    return theta, learned.get(best), time.perf_counter() - began


def _of_layers(theta: Any) -> dict[str, list[float]]:
    """Of each leaf of phi the quartiles of log10 lambda, as its name in the tree."""
    leaves = jax.tree_util.tree_leaves_with_path(theta)
    quartiles = lambda leaf: np.quantile(np.asarray(leaf) / math.log(10), [0.25, 0.5, 0.75])
    return {jax.tree_util.keystr(path): quartiles(leaf).tolist() for path, leaf in leaves}


def _draw(theta: Any, axes: Any) -> None:
    """The lambdas of each layer's matrix."""
    for i, (ax, layer) in enumerate(zip(axes.flat, theta, strict=True)):
        values = np.asarray(layer["w"]).ravel() / math.log(10)
        ax.hist(values, bins=40, color=f"C{i}")
        ax.set(title=f"layer {i + 1}", xlabel="log10 lambda", yticks=[])
