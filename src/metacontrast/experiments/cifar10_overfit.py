"""How far can a regulariser drive down a validation loss? A stress test of meta-gradients.

    metacontrast run cifar10-overfit --method contrastive --seed 0
    metacontrast table cifar10-overfit

LeNet-5 learns from 50 CIFAR-10 images, always from the same start; one lambda a weight, 62,006, is
meta-learned to lower its loss on 950 others. So many meta-parameters can overfit the validation
set, and how well they do tells how good the meta-gradient is. Nothing is generalised to, and test
images are not looked at. After the talk's figure of 1,000 images, of which 95% are held out.

Each meta-step spends 100 gradients on learning and 40 on the meta-gradient, where a product with
the Hessian counts as two; T1-T2, which needs none, takes as many more meta-steps instead. A
gradient of the nudged phases sees all 1,000 images, unless the nudge is linear, and so costs much
more time than the others' gradients, which see 50. Departures: the talk's settings of this figure
are not known; here learning stops early, so that minutes suffice.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import typer

import metacontrast as mc

from ..report import figure
from ..train import meta_train, summarise, write_result
from ._cifar10 import NET, error, images, judged
from ._common import Out, Resume, Steps, folder

NAME = "cifar10-overfit"
METRIC = "lowest validation cross-entropy reached, 950 images"
LEARNED, HELD_OUT = 50, 950
STEPS, EXTRA, RATE = 100, 40, 0.02


@dataclass(frozen=True)
class Settings:
    """What a run depends on besides its method and seed."""

    steps: int
    outer_rate: float = 0.15  # falls to zero on a cosine
    first_lambda: float = 1e-2
    clipped: bool = False  # lambda itself is learned and kept above zero, not its logarithm


def _nesterov(steps: int, momentum: float = 0.9) -> Any:
    return mc.descend(optax.sgd(RATE, momentum, nesterov=True), steps)


class Method(NamedTuple):
    """How the meta-gradient is found, and how many meta-steps the common budget allows."""

    estimator: Any
    steps: int = 30


# Settings were chosen on seed 100, by the cosine of the first meta-gradient (see `cosines`) and by
# the loss reached. Nudged phases learn no faster than learning itself: what is stable at first
# need not be once lambdas have grown.
LEARN, NUDGED = _nesterov(STEPS), _nesterov(EXTRA // 2, 0.95)
METHODS = {
    # Learning stops early, and what is left of it would be divided by beta: hence control.
    "contrastive": Method(mc.Contrastive(1e-2, nudged=NUDGED, control=True)),
    "contrastive-symmetric": Method(mc.Contrastive(1e-3, "symmetric", nudged=NUDGED)),
    "contrastive-linear": Method(mc.LinearNudge(0.1, nudged=NUDGED)),
    # One phase of all steps but one, whose gradient is the slope that is taken out.
    "contrastive-anchored": Method(
        mc.LinearNudge(0.1, "forward", nudged=_nesterov(EXTRA - 1, 0.95), damping=0.1)
    ),
    "t1t2": Method(mc.Implicit("identity"), steps=30 * (STEPS + EXTRA) // STEPS),
    # Where learning stops early the Hessian is indefinite, which damping makes up for.
    "cg": Method(mc.Implicit("cg", EXTRA // 2, damping=0.1)),
    "neumann": Method(mc.Implicit("neumann", EXTRA // 2, rate=RATE)),
    "tbptt": Method(mc.Unrolled(truncate=EXTRA // 2)),
    "none": Method(None, steps=0),
}
REFERENCE = dict.fromkeys(METHODS, "")


def images_of(seed: int) -> mc.Task:
    """50 images to learn from and 950 to validate on; each channel of mean 0 and deviation 1."""
    return mc.Task(*images(seed, LEARNED, HELD_OUT)[0])


def problem(start: Any, clipped: bool) -> mc.Problem:
    """LeNet-5 from `start`; theta are the logarithms of lambda, or lambda itself."""

    def inner(phi: Any, theta: Any, task: mc.Task) -> jax.Array:
        log_lam = jax.tree.map(_log, theta) if clipped else theta
        return error(phi, task.train) + mc.attraction(phi, log_lam=log_lam)

    return mc.Problem(
        init=lambda theta, task: start,
        inner=inner,
        outer=lambda phi, theta, task: error(phi, task.test),
    )


def _log(lam: jax.Array) -> jax.Array:
    # Its derivative at a lambda that was clipped must be finite.
    return jnp.log(jnp.maximum(lam, 1e-12))


def _optimizer(settings: Settings) -> optax.GradientTransformation:
    rate = settings.outer_rate * (settings.first_lambda if settings.clipped else 1.0)
    adam = optax.adam(optax.cosine_decay_schedule(rate, settings.steps))
    # As published where lambda itself is learned: Adam, then the projection.
    return optax.chain(adam, optax.keep_params_nonnegative()) if settings.clipped else adam


def cosines(seed: int, names: tuple[str, ...] = tuple(METHODS)) -> dict[str, float]:
    """Of each method's first meta-gradient with the exact one of early-stopped learning.

    The latter is backpropagation through all 100 steps. Both with respect to log lambda.
    """
    start, theta = _first(seed, Settings(steps=0))
    task = images_of(seed)

    def gradient(estimator: Any) -> jax.Array:
        rule = partial(estimator.value_and_grad, problem(start, False), LEARN)
        _, grad = jax.jit(rule)(theta, task)
        return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(grad)])

    exact = gradient(mc.Unrolled(remat=True))
    rules = {name: METHODS[name].estimator for name in names if name != "none"}
    found = {name: gradient(rule) for name, rule in rules.items()}
    norm = jnp.linalg.norm
    return {name: float(g @ exact / norm(g) / norm(exact)) for name, g in found.items()}


def _first(seed: int, settings: Settings) -> tuple[Any, Any]:
    """Where learning always starts, and theta."""
    start = NET.init(jax.random.key(seed))
    first = settings.first_lambda if settings.clipped else math.log(settings.first_lambda)
    return start, jax.tree.map(lambda leaf: jnp.full(leaf.shape, first), start)


def main(
    method: Annotated[
        str, typer.Option(help=f"One of {', '.join(METHODS)}.")
    ] = "contrastive-anchored",
    seed: Annotated[int, typer.Option(help="Chooses the images and the start of learning.")] = 0,
    steps: Steps = None,
    clipped: Annotated[bool, typer.Option("--clipped", help="Learn lambda, not its log.")] = False,
    out: Out = None,
    resume: Resume = False,
) -> None:
    """Meta-learn a regulariser of LeNet-5 that overfits the validation set."""
    result = run(method, seed, steps, clipped, out, resume)
    print(
        f"{method}, seed {seed}: {result['value']:.4f} ({METRIC}; accuracy "
        f"{result['accuracy']:.4f}; from {result['first']:.4f}, at last {result['last']:.4f})"
    )


def run(
    name: str,
    seed: int = 0,
    steps: int | None = None,
    clipped: bool = False,
    out: Path | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """One method, one seed: meta-learn lambda, write result.json and the curves beside it."""
    out = folder(NAME, METHODS, name, seed, out)
    steps = METHODS[name].steps if steps is None or name == "none" else steps
    settings = Settings(steps, clipped=clipped)
    values, curve, seconds = _meta_trained(name, settings, seed, out, resume)
    best = min(curve, key=lambda line: line["valid_loss"] or math.inf)
    result = summarise(
        values,
        experiment=NAME,
        method=name,
        metric=METRIC,
        seeds=[seed],
        meta_steps=steps,
        seconds=seconds,
        reference=REFERENCE[name],
        first=curve[0]["valid_loss"],
        last=curve[-1]["valid_loss"],
        cosine=cosines(seed, (name,)).get(name),
        accuracy=best["valid_accuracy"],
        curve=curve,
    )
    write_result(out, result)
    figure(out / "curves", partial(_draw, out.parent.parent, seed), 1, 2)
    return result


def _meta_trained(
    name: str, settings: Settings, seed: int, out: Path, resume: bool
) -> tuple[Any, list[dict[str, Any]], float]:
    """At the best theta, the loss of each validation image; the curve; and the seconds."""
    estimator, task = METHODS[name].estimator, images_of(seed)
    start, theta = _first(seed, settings)
    learner = problem(start, settings.clipped)
    judge = jax.jit(
        lambda theta, task: judged(mc.learn(learner, LEARN, theta, task).phi, task.test)
    )

    def valid(theta: Any) -> dict[str, float]:
        losses, told = judge(theta, task)
        return {"loss": float(jnp.mean(losses)), "accuracy": float(jnp.mean(told))}

    first = {"step": 0} | {f"valid_{key}": value for key, value in valid(theta).items()}
    if estimator is None:
        return judge(theta, task)[0], [first], 0.0
    trained = meta_train(
        learner,
        LEARN,
        estimator,
        # Behind a barrier, or XLA would compute for minutes what it can of a constant task.
        lambda key: jax.lax.optimization_barrier(task),
        theta,
        _optimizer(settings),
        steps=settings.steps,
        tasks=1,
        seed=seed,
        out=out,
        resume=resume,
        config={"experiment": NAME, "method": name, "schedule": settings.steps} | asdict(settings),
        every=5,
        chunk=5,
        valid=valid,
    )
    curve = [first, *({key: line[key] for key in first} for line in trained.metrics)]
    return judge(trained.best, task)[0], curve, trained.seconds


def _draw(runs: Path, seed: int, axes: Any) -> None:
    """Validation loss and accuracy over meta-steps, of all methods run with this seed so far."""
    loss, accuracy = axes.flat
    for i, name in enumerate(METHODS):
        path = runs / name / f"seed{seed}" / "result.json"
        if not path.is_file():
            continue
        curve = json.loads(path.read_text())["curve"]
        if len(curve) == 1:
            loss.axhline(curve[0]["valid_loss"], color="0.6", ls=":", label=name)
            accuracy.axhline(curve[0]["valid_accuracy"], color="0.6", ls=":")
            continue
        at = [line["step"] for line in curve]
        style = {"color": f"C{i}", "ls": "-" if name.startswith("contrastive") else "--"}
        loss.plot(at, [line["valid_loss"] for line in curve], label=name, **style)
        accuracy.plot(at, [line["valid_accuracy"] for line in curve], **style)
    loss.set(xlabel="meta-steps", ylabel="validation loss", yscale="log")
    accuracy.set(xlabel="meta-steps", ylabel="validation accuracy")
    loss.figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize="small")
