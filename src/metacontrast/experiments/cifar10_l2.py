"""Is a learned regulariser better than the best number? One lambda a weight, on CIFAR-10.

    metacontrast run cifar10-l2 --method weight --seed 0
    metacontrast table cifar10-l2

LeNet-5 learns from 10,000 images, pulled to zero with a strength of its own for each of its 62,006
weights, meta-learned to lower the loss on 10,000 validation images. Then it learns once more, from
the start and as long as those it is compared with, and is tested on 10,000 others: against one
lambda for all weights, the best on the validation images of a grid, and against none. After section
5.1 of the paper; departures: its batch sizes and steps are not known, and these are ours.

Meta-learning goes on from what is learned with the first lambda, and along with one long run of
learning, which is never started anew: a free phase, and one each way of a linear nudge, which start
where the free phase has got to.
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
from ..train import open_folder, summarise, warm_train, write_json, write_result
from ._cifar10 import NET, error, images, judged, normalised
from ._common import Out, Quick, Resume, Seed, Steps, folder, shortened

NAME = "cifar10-l2"
METRIC = "accuracy in percent on CIFAR-10's 10,000 test images"
LEARNED, VALID = 10_000, 10_000
GRID = (0.0, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
METHODS = ("weight", "layer", "grid", "none")
REFERENCE = dict.fromkeys(METHODS, "")
SCORES = "grid.json"


@dataclass(frozen=True)
class Settings:
    """What a run depends on besides its method and seed."""

    steps: int = 30  # meta-steps
    phase: int = 100  # inner steps of each phase
    shown: int = 1000  # validation images that a meta-step sees
    batch: int = 100  # images of an inner step
    rate: float = 0.01
    beta: float = 0.1
    outer_rate: float = 0.15  # falls to zero on a cosine
    first_lambda: float = 1e-2
    last_steps: int = 2000  # of the learner that is tested
    last_rate: float = 0.02  # of it, at first; falls to zero on a cosine


class Strengths(NamedTuple):
    """theta: logarithms, a part shared by each matrix or vector of weights, and a part of its own.

    lambda is the exponential of their sum; without `own` it is one a matrix or vector. The shared
    part learns from all its weights at once, of each of which a meta-step tells next to nothing.
    """

    shared: Any
    own: Any = None

    def log_lam(self) -> Any:
        """As `mc.attraction` takes it."""
        return self.shared if self.own is None else jax.tree.map(jnp.add, self.shared, self.own)


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


def problem(start: Any, batch: int, learned: mc.Data | None = None) -> mc.Problem:
    """LeNet-5 from `start`, on `batch` images a step; theta are `Strengths`.

    The images are drawn from those to learn from of the task; or of `learned`, and the task needs
    to have but a few, by which the inner loss is told.
    """

    def sample(z: mc.Task, key: jax.Array) -> mc.Task:
        return z._replace(train=some(key, z.train if learned is None else learned, batch))

    return mc.Problem(
        init=lambda theta, task: start,
        inner=lambda phi, theta, z: (
            error(phi, z.train) + mc.attraction(phi, log_lam=theta.log_lam())
        ),
        outer=lambda phi, theta, z: error(phi, z.test),
        sample=sample,
    )


def first_theta(name: str, start: Any, lam: float) -> Strengths:
    """The same lambda everywhere; each weight has a part of its own if the method is "weight"."""
    shared = jax.tree.map(lambda leaf: jnp.asarray(math.log(max(lam, 1e-12))), start)
    return Strengths(shared, jax.tree.map(jnp.zeros_like, start) if name == "weight" else None)


def learner(start: Any, data: mc.Data, settings: Settings, seed: int) -> Any:
    """`theta -> phi`: learns from the start to the end of its schedule."""
    rate = optax.cosine_decay_schedule(settings.last_rate, settings.last_steps)
    solve = mc.descend(optax.sgd(rate, 0.9, nesterov=True), settings.last_steps)
    alone = problem(start, settings.batch)
    # Batches that meta-learning has not seen.
    key = jax.random.fold_in(jax.random.key(seed), 2**31)
    learn = jax.jit(lambda theta, task: mc.learn(alone, solve, theta, task, key).phi)
    # Not judged while it learns: any few images do for the other half.
    few = jax.tree.map(lambda leaf: leaf[:2], data)
    return lambda theta: learn(theta, mc.Task(data, few))


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
        settings = replace(settings, last_steps=settings.last_steps // 10)
    config = {"experiment": NAME, "method": name, "seed": seed}
    photos, start = photographs(seed), NET.init(jax.random.key(seed))
    learn = learner(start, photos.learned, settings, seed)
    if name in ("weight", "layer"):
        theta, seconds = _meta_learned(
            name, photos, start, learn, settings, seed, config, out, resume
        )
        phi = learn(theta)
    else:
        theta, phi, seconds = _of_the_grid(
            name, photos, start, learn, settings, config, out, resume
        )
    result = summarise(
        told(phi, photos.test)[1],
        experiment=NAME,
        method=name,
        metric=METRIC,
        seeds=[seed],
        meta_steps=settings.steps if name in ("weight", "layer") else 0,
        seconds=seconds,
        reference=REFERENCE[name],
        log10_lambda=_of_layers(theta),
        valid_accuracy=float(jnp.mean(told(phi, photos.valid)[1])),
        learned_accuracy=float(jnp.mean(told(phi, photos.learned)[1])),
    )
    write_result(out, result)
    figure(out / "lambda", partial(_draw, theta), 1, 5, (2.2, 2.2))
    return result


def _meta_learned(
    name: str,
    photos: Photographs,
    start: Any,
    learn: Any,
    settings: Settings,
    seed: int,
    config: dict[str, Any],
    out: Path,
    resume: bool,
) -> tuple[Any, float]:
    phase = mc.descend(optax.sgd(settings.rate, 0.9, nesterov=True), settings.phase)
    few = some(jax.random.key(seed), photos.learned, settings.batch)

    def draw(key: jax.Array) -> mc.Task:
        return mc.Task(few, some(key, photos.valid, settings.shown))

    theta = first_theta(name, start, settings.first_lambda)
    trained = warm_train(
        # Of a network that has learned nothing yet, larger weights raise the loss: every lambda
        # would grow at first.
        problem(learn(theta), settings.batch, photos.learned),
        phase,
        mc.LinearNudge(settings.beta),
        draw,
        theta,
        optax.adam(optax.cosine_decay_schedule(settings.outer_rate, settings.steps)),
        steps=settings.steps,
        seed=seed,
        fresh=True,
        out=out,
        resume=resume,
        config=config | {"schedule": settings.steps} | _kept(settings),
        every=5,
        chunk=1,
        watch=lambda theta, phi: {"accuracy": float(jnp.mean(told(phi, photos.valid)[1]))},
    )
    return trained.theta, trained.seconds


def _kept(settings: Settings) -> dict[str, Any]:
    return {k: v for k, v in asdict(settings).items() if k != "steps"}


def _of_the_grid(
    name: str,
    photos: Photographs,
    start: Any,
    learn: Any,
    settings: Settings,
    config: dict[str, Any],
    out: Path,
    resume: bool,
) -> tuple[Any, Any, float]:
    """The lambda with which most of the validation images are told right, or none; and phi."""
    out = open_folder(out, config | {"grid": GRID} | _kept(settings), resume)
    began, found, learned = time.perf_counter(), {}, {}
    if (out / SCORES).is_file():
        found = json.loads((out / SCORES).read_text())
    for lam in GRID if name == "grid" else GRID[:1]:
        if str(lam) not in found:
            learned[lam] = learn(first_theta(name, start, lam))
            found[str(lam)] = float(jnp.mean(told(learned[lam], photos.valid)[1]))
            write_json(out / SCORES, found)
            print(f"lambda {lam:g}: {found[str(lam)]:.2f} % of validation images", flush=True)
    best = float(max(found, key=lambda lam: found[lam]))
    theta, seconds = first_theta(name, start, best), time.perf_counter() - began
    # A resumed run has the score of what it learned before, but not phi.
    return theta, learned[best] if best in learned else learn(theta), seconds


def _of_layers(theta: Strengths) -> dict[str, list[float]]:
    """Of each leaf of phi the quartiles of log10 lambda, as its name in the tree."""
    leaves = jax.tree_util.tree_leaves_with_path(theta.log_lam())
    quartiles = lambda leaf: np.quantile(np.asarray(leaf) / math.log(10), [0.25, 0.5, 0.75])
    return {jax.tree_util.keystr(path): quartiles(leaf).tolist() for path, leaf in leaves}


def _draw(theta: Strengths, axes: Any) -> None:
    """The lambdas of each layer's matrix."""
    for i, (ax, layer) in enumerate(zip(axes.flat, theta.log_lam(), strict=True)):
        values = np.asarray(layer["w"]).ravel() / math.log(10)
        ax.hist(values, bins=40, color=f"C{i}")
        ax.set(title=f"layer {i + 1}", xlabel="log10 lambda", yticks=[])
