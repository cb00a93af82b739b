"""Data hyper-cleaning: find the wrong labels of MNIST by learning one weight an example.

    metacontrast run hypercleaning --method cml --seed 0
    metacontrast table hypercleaning

5,000 training images, half of whose labels are wrong, and 5,000 validation images with right ones;
the task of Franceschi, Donini, Frasconi, Pontil, 2017. A linear learner minimises the weighted
cross-entropy of the former, and its weights, 5,000 logits, are meta-learned to lower the
cross-entropy of the latter. All images are of MNIST's training half; test images are looked at
once, at the end of a run. Settings were chosen on 5,000 further training images with seed 100.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
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
from ..tasks import mnist
from ..train import meta_train, summarise, write_result
from ._common import Out, Resume, Steps, folder, shortened

NAME = "hypercleaning"
METRIC = "accuracy on MNIST's 10,000 test images"
REFERENCE = dict.fromkeys(("cml", "implicit-cg", "t1t2", "all", "clean", "valid"), "")
IMAGES, VALID, CLASSES = 5000, 5000, 10
CERTAIN = 30.0  # the logit of a weight of 1, and its negative that of 0, within round-off
FREE, NUDGED = mc.lbfgs(1e-5, 40), mc.lbfgs(1e-5, 15)


@dataclass(frozen=True)
class Settings:
    """What a run depends on besides its method and seed."""

    steps: int = 50
    outer_rate: float = 0.4
    last_rate: float = 0.05  # of the outer rate, at the end of its cosine
    lam: float = 1e-3  # of the l2 penalty on the learner's matrix


class Method(NamedTuple):
    """How the weights of examples are found; with no estimator, they are given."""

    estimator: Any
    settings: Settings = Settings()


class Cleaning(NamedTuple):
    """One seed's images: `train` with half of its labels `wrong`, and `test`, the validation set.

    Their common `mean` is taken off all images.
    """

    task: mc.Task
    wrong: np.ndarray
    mean: np.ndarray


METHODS = {
    # The nudge is large: the augmented loss is convex, and a smaller one was no better.
    "cml": Method(mc.Contrastive(0.5, nudged=NUDGED)),
    "implicit-cg": Method(mc.Implicit("cg", 20)),
    "t1t2": Method(mc.Implicit("identity")),
    "all": Method(None, Settings(steps=0, lam=1e-2)),
    # An oracle. Its weights of 0 leave half of the loss: half of lambda keeps the balance.
    "clean": Method(None, Settings(steps=0, lam=5e-4)),
    "valid": Method(None, Settings(steps=0)),  # learns from the validation set alone
}


def images(seed: int) -> Cleaning:
    """The images and labels of one seed; a wrong label is one of the nine others."""
    x, y = mnist("train")
    random = np.random.default_rng(seed)
    chosen = random.permutation(len(x))[: IMAGES + VALID]
    x, y = x[chosen].reshape(-1, 784).astype(np.float32) / 255, y[chosen]
    mean = x[:IMAGES].mean(axis=0)
    wrong = random.permutation(IMAGES) < IMAGES // 2
    y[:IMAGES][wrong] += random.integers(1, CLASSES, IMAGES // 2, dtype=np.int32)
    data = mc.Data(jnp.asarray(x - mean), jnp.asarray(y % CLASSES))
    train = mc.Data(data.x[:IMAGES], data.y[:IMAGES])
    return Cleaning(mc.Task(train, mc.Data(data.x[IMAGES:], data.y[IMAGES:])), wrong, mean)


def _logits(phi: Any, x: jax.Array) -> jax.Array:
    return x @ phi["matrix"] + phi["bias"][None]


def _errors(phi: Any, data: mc.Data) -> jax.Array:
    """The cross-entropy of each image."""
    return optax.softmax_cross_entropy_with_integer_labels(_logits(phi, data.x), data.y)


def problem(lam: float) -> mc.Problem:
    """A linear learner; theta are the logits of its training images' weights."""

    def inner(phi: Any, theta: jax.Array, task: mc.Task) -> jax.Array:
        weighted = jax.nn.sigmoid(theta) * _errors(phi, task.train)
        return jnp.mean(weighted) + lam * jnp.sum(phi["matrix"] ** 2)

    return mc.Problem(
        init=lambda theta, task: {"matrix": jnp.zeros((784, CLASSES)), "bias": jnp.zeros(CLASSES)},
        inner=inner,
        outer=lambda phi, theta, task: jnp.mean(_errors(phi, task.test)),
    )


def detection(theta: Any, wrong: np.ndarray) -> float:
    """The area under the ROC curve of low weights as a sign of wrong labels.

    The probability that an image with a wrong label has the lower weight of two; ties count half.
    """
    theta = np.asarray(theta, np.float64)
    _, inverse, counts = np.unique(theta, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # of ties, their mean
    low, n = ranks[wrong].sum(), int(wrong.sum())
    return float(1 - (low - n * (n + 1) / 2) / (n * (len(wrong) - n)))


def main(
    method: Annotated[str, typer.Option(help=f"One of {', '.join(METHODS)}.")] = "cml",
    seed: Annotated[int, typer.Option(help="Chooses the images and the wrong labels.")] = 0,
    steps: Steps = None,
    out: Out = None,
    resume: Resume = False,
) -> None:
    """Find wrong labels by meta-learning a weight for each image, and test the learner."""
    result = run(method, seed, steps, out, resume)
    found = "" if result["auc"] is None else f"; wrong labels found: AUC {result['auc']:.4f}"
    print(
        f"{method}, seed {seed}: {result['value']:.4f} +- {result['ci95']:.4f} ({METRIC}; "
        f"{result['with_valid']:.4f} with the validation set learned too){found}"
    )


def run(
    name: str,
    seed: int = 0,
    steps: int | None = None,
    out: Path | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """One method, one seed: find the weights, learn, test, write result.json and a figure."""
    out = folder(NAME, METHODS, name, seed, out)
    method = METHODS[name]
    settings = method.settings
    if method.estimator is not None:
        settings = shortened(settings, steps)
    cleaning = images(seed)
    theta, seconds, curve = _weights(name, settings, seed, out, resume, cleaning)
    told, told_with_valid = _accuracies(theta, name, settings.lam, cleaning)
    meta_learned = method.estimator is not None
    result = summarise(
        told,
        experiment=NAME,
        method=name,
        metric=METRIC,
        seeds=[seed],
        meta_steps=settings.steps,
        seconds=seconds,
        reference=REFERENCE[name],
        auc=detection(theta, cleaning.wrong) if meta_learned else None,
        with_valid=float(told_with_valid.mean()),
    )
    write_result(out, result)
    if meta_learned:
        figure(out / "weights", partial(_draw, theta, cleaning.wrong, curve), 1, 3)
    return result


def _weights(
    name: str, settings: Settings, seed: int, out: Path, resume: bool, cleaning: Cleaning
) -> tuple[jax.Array, float, tuple[Any, ...]]:
    """The logits of the weights, the seconds that they took, and the metrics on the way."""
    task, wrong, _ = cleaning
    if METHODS[name].estimator is None:
        weight = {"all": np.ones(IMAGES), "clean": 1 - wrong, "valid": np.zeros(IMAGES)}[name]
        return jnp.asarray(CERTAIN * (2 * weight - 1), jnp.float32), 0.0, ()
    rate = optax.cosine_decay_schedule(settings.outer_rate, settings.steps, settings.last_rate)
    learner = problem(settings.lam)
    learn = jax.jit(lambda theta, task: mc.learn(learner, FREE, theta, task).phi)

    def valid(theta: jax.Array) -> dict[str, float]:
        phi = learn(theta, task)
        accuracy = jnp.mean(jnp.argmax(_logits(phi, task.test.x), axis=1) == task.test.y)
        loss = float(learner.outer(phi, theta, task))
        return {"loss": loss, "accuracy": float(accuracy), "auc": detection(theta, wrong)}

    trained = meta_train(
        learner,
        FREE,
        METHODS[name].estimator,
        # Behind a barrier, or XLA would spend minutes on what it can compute of a constant task.
        lambda key: jax.lax.optimization_barrier(task),
        jnp.zeros(IMAGES),
        optax.adam(rate),
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
    return trained.theta, trained.seconds, trained.metrics


def _fitted(theta: jax.Array, lam: float, train: mc.Data, task: mc.Task) -> Any:
    """What is learned from `train` with these weights, until converged."""
    learn = jax.jit(lambda task: mc.learn(problem(lam), mc.lbfgs(1e-5, 100), theta, task).phi)
    return learn(task._replace(train=train))


def _accuracies(theta: jax.Array, name: str, lam: float, cleaning: Cleaning) -> tuple[Any, Any]:
    """Of each test image, whether it is told; also if the validation set is learned from too."""
    task, trusted = cleaning.task, jnp.full(VALID, CERTAIN)
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), task.train, task.test)
    if name == "valid":
        phis = [_fitted(trusted, lam, task.test, task)] * 2
    else:
        joined = jnp.concatenate([theta, trusted])
        phis = [_fitted(theta, lam, task.train, task), _fitted(joined, lam, both, task)]
    x, y = mnist("test")
    x = jnp.asarray(x.reshape(-1, 784) / np.float32(255) - cleaning.mean)
    alone, with_valid = (np.asarray(jnp.argmax(_logits(phi, x), axis=1)) == y for phi in phis)
    return alone, with_valid


def _draw(theta: Any, wrong: np.ndarray, curve: tuple[Any, ...], axes: Any) -> None:
    """The weights of right and wrong labels, the detector that they make, and how it came about."""
    weights, (histogram, roc, steps) = np.asarray(jax.nn.sigmoid(theta)), axes.flat
    for chosen, colour, label in ((~wrong, "C0", "right"), (wrong, "C3", "wrong")):
        histogram.hist(weights[chosen], np.linspace(0, 1, 31), color=colour, alpha=0.6, label=label)
    histogram.set(xlabel="learned weight", ylabel="images")
    histogram.legend(title="label", frameon=False)
    order = np.argsort(np.asarray(theta), kind="stable")
    roc.plot(np.cumsum(~wrong[order]) / np.sum(~wrong), np.cumsum(wrong[order]) / np.sum(wrong))
    roc.set(xlabel="right labels called wrong", ylabel="wrong labels found")
    roc.set_title(f"AUC {detection(theta, wrong):.3f}", fontsize="medium")
    at = [line["step"] for line in curve]
    steps.plot(at, [line["valid_auc"] for line in curve], "C0", label="AUC")
    steps.plot(at, [line["valid_accuracy"] for line in curve], "C1", label="validation accuracy")
    steps.plot(at, [line["valid_loss"] for line in curve], "C1--", label="validation loss")
    steps.set_xlabel("meta-steps")
    steps.legend(frameon=False, fontsize="small")
