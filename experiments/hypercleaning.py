"""Data hyper-cleaning: find the wrong labels of MNIST by learning one weight an image.

    python experiments/hypercleaning.py --method cml --seed 0
    metacontrast report runs/hypercleaning

5,000 training images, half of whose labels are wrong, and 5,000 validation images with right ones;
the task of Franceschi, Donini, Frasconi, Pontil, 2017. A linear learner minimises the weighted
cross-entropy of the former, and its weights, 5,000 logits, are meta-learned to lower the
cross-entropy of the latter. All images are of MNIST's training half; test images are looked at
once, at the end of a run. Settings were chosen on 5,000 further training images with seed 100.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import frame
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

import metacontrast as mc
from metacontrast.report import figure
from metacontrast.tasks import mnist
from metacontrast.train import Trained

CLASSES = 10
CERTAIN = 30.0  # the logit of a weight of 1, and its negative that of 0, within round-off


@dataclass(frozen=True, kw_only=True)
class Settings(frame.Settings):
    """What a run depends on. `seed` chooses the images and the wrong labels."""

    images: int = 5000  # To learn from; half of their labels are wrong.
    valid_images: int = 5000  # To validate on, with right labels.
    outer_rate: float = 0.4  # Of Adam on the weights.
    last_rate: float = 0.05  # Of the outer rate, at the end of its cosine.
    lam: float = 1e-3  # Of the l2 penalty on the learner's matrix.
    tol: float = 1e-5  # The gradient at which L-BFGS has converged.
    free: int = 40  # Iterations of L-BFGS at most,
    nudged: int = 15  # of a nudged phase,
    final: int = 100  # and of the learner that is tested.
    # The augmented loss is convex, so that the nudge may be large; a smaller one was no better.
    # The strength of the nudge; None: what `suggest_beta` says where meta-training starts.
    beta: float | None = 0.5
    cg: int = 20  # Iterations of conjugate gradient.


_LEARNED = Settings(method="cml", steps=50)
METHODS = {
    "cml": _LEARNED,
    "cml-suggested": replace(_LEARNED, method="cml-suggested", beta=None),
    "implicit-cg": replace(_LEARNED, method="implicit-cg"),
    "t1t2": replace(_LEARNED, method="t1t2"),
    "uniform": Settings(method="uniform", lam=1e-2),
    # An oracle. Its weights of 0 leave half of the loss: half of lambda keeps the balance.
    "clean": Settings(method="clean", lam=5e-4),
    "valid": Settings(method="valid"),  # learns from the validation images alone
}
EXPERIMENT = frame.Experiment(
    "hypercleaning", metric="accuracy on MNIST's test images", methods=METHODS, default="cml"
)


class Cleaning(NamedTuple):
    """One seed's images; the validation images are `task.test`.

    The `mean` of all that are learned from is taken off every image.
    """

    task: mc.Task
    is_wrong: np.ndarray  # of each label that is learned from
    mean: np.ndarray


def images(s: Settings) -> Cleaning:
    """The images and labels of one seed; a wrong label is one of the nine others.

    Raises:
        ValueError: there are not so many images.
    """
    x, y = mnist("train")
    n, total = s.images, s.images + s.valid_images
    if total > len(x):
        raise ValueError(
            f"images, valid_images: {total:,} are asked for, and MNIST's training half has "
            f"{len(x):,}; ask for fewer."
        )
    random = np.random.default_rng(s.seed)
    chosen = random.permutation(len(x))[:total]
    x, y = x[chosen].reshape(-1, 784).astype(np.float32) / 255, y[chosen]
    mean = x[:n].mean(axis=0)
    is_wrong = random.permutation(n) < n // 2
    y[:n][is_wrong] += random.integers(1, CLASSES, n // 2, dtype=np.int32)
    data = mc.Data(jnp.asarray(x - mean), jnp.asarray(y % CLASSES))
    halves = mc.Task(mc.Data(data.x[:n], data.y[:n]), mc.Data(data.x[n:], data.y[n:]))
    return Cleaning(halves, is_wrong, mean)


def others(part: str, mean: np.ndarray) -> mc.Data:
    """A part of MNIST, with the `mean` of other images taken off."""
    x, y = mnist(part)
    return mc.Data(jnp.asarray(x.reshape(-1, 784) / np.float32(255) - mean), jnp.asarray(y))


def logits(phi: PyTree, x: jax.Array) -> jax.Array:
    """Of each class."""
    return x @ phi["matrix"] + phi["bias"][None]


def errors(phi: PyTree, data: mc.Data) -> jax.Array:
    """The cross-entropy of each image."""
    return optax.softmax_cross_entropy_with_integer_labels(logits(phi, data.x), data.y)


def is_correct(phi: PyTree, data: mc.Data) -> jax.Array:
    """Of each image, whether its class is recognised."""
    return jnp.argmax(logits(phi, data.x), axis=1) == data.y


def problem(lam: float) -> mc.Problem:
    """A linear learner; theta are the logits of its training images' weights.

    L_in = mean_i sigmoid(theta_i) L_i(phi) + lam |matrix|^2,   L_out = L_valid(phi)
    """

    def inner(phi: PyTree, theta: jax.Array, task: mc.Task) -> jax.Array:
        weighted = jax.nn.sigmoid(theta) * errors(phi, task.train)
        return jnp.mean(weighted) + lam * jnp.sum(phi["matrix"] ** 2)

    return mc.Problem(
        init=lambda theta, task: {"matrix": jnp.zeros((784, CLASSES)), "bias": jnp.zeros(CLASSES)},
        inner=inner,
        outer=lambda phi, theta, task: jnp.mean(errors(phi, task.test)),
    )


def with_beta(s: Settings, task: mc.Task) -> Settings:
    """The same, with a nudge that no run was tuned by, where none is given."""
    if s.beta is not None:
        return s
    one, solver = jax.tree.map(lambda leaf: leaf[None], task), mc.lbfgs(s.tol, s.free)
    rule, theta = _contrastive(s, 1.0), jnp.zeros(s.images)
    return replace(s, beta=frame.suggested_beta(problem(s.lam), solver, rule, theta, one))


def estimator(s: Settings) -> mc.Estimator | None:
    """How the weights of images are learned; None: they are given."""
    if s.beta is not None and s.method.startswith("cml"):
        return _contrastive(s, s.beta)
    rules: dict[str, mc.Estimator] = {
        "implicit-cg": mc.Implicit("cg", s.cg),
        "t1t2": mc.Implicit("identity"),
    }
    return rules.get(s.method)


def _contrastive(s: Settings, beta: float) -> mc.Contrastive:
    return mc.Contrastive(beta, nudged=mc.lbfgs(s.tol, s.nudged))


def given(s: Settings, is_wrong: np.ndarray) -> jax.Array:
    """The logits of weights that are not learned."""
    n = len(is_wrong)
    weights = {"uniform": np.ones(n), "clean": 1 - is_wrong, "valid": np.zeros(n)}
    return jnp.asarray(CERTAIN * (2 * weights[s.method] - 1), jnp.float32)


def detection(theta: jax.Array, is_wrong: np.ndarray) -> float:
    """The area under the ROC curve of low weights as a sign of wrong labels.

    The probability that an image with a wrong label has the lower weight of two; ties count half.
    """
    _, inverse, counts = np.unique(
        np.asarray(theta, np.float64), return_inverse=True, return_counts=True
    )
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # of ties, their mean
    low, n = ranks[is_wrong].sum(), int(is_wrong.sum())
    return float(1 - (low - n * (n + 1) / 2) / (n * (len(is_wrong) - n)))


def meta_trained(s: Settings, rule: mc.Estimator, cleaning: Cleaning) -> Trained:
    """The logits of the weights, meta-learned from zero: one task, the same each meta-step."""
    task, is_wrong, _ = cleaning
    learner, solver = problem(s.lam), mc.lbfgs(s.tol, s.free)
    learn = jax.jit(lambda theta, task: mc.solve_inner(learner, solver, theta, task).phi)

    def validate(theta: jax.Array) -> dict[str, float]:
        phi = learn(theta, task)
        accuracy = float(jnp.mean(is_correct(phi, task.test)))
        loss = float(learner.outer(phi, theta, task))
        return {"loss": loss, "accuracy": accuracy, "auc": detection(theta, is_wrong)}

    return EXPERIMENT.meta_train(
        s,
        learner,
        solver,
        rule,
        # Behind a barrier, or XLA would spend minutes on what it can compute of a constant task.
        lambda key: jax.lax.optimization_barrier(task),
        jnp.zeros(s.images),
        optax.adam(optax.cosine_decay_schedule(s.outer_rate, s.steps, s.last_rate)),
        tasks=1,
        validate=validate,
        log_every=5,
        steps_per_dispatch=5,
    )


def learners(s: Settings, theta: jax.Array, task: mc.Task) -> tuple[PyTree, PyTree]:
    """What is learned until converged with these weights; and with the validation images too."""
    solver = mc.lbfgs(s.tol, s.final)

    def learn(theta: jax.Array, data: mc.Data) -> PyTree:
        run = jax.jit(lambda task: mc.solve_inner(problem(s.lam), solver, theta, task).phi)
        return run(task._replace(train=data))

    trusted = jnp.full(s.valid_images, CERTAIN)
    if s.method == "valid":
        return (learn(trusted, task.test),) * 2
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), task.train, task.test)
    return learn(theta, task.train), learn(jnp.concatenate([theta, trusted]), both)


def run(s: Settings) -> dict[str, Any]:
    """One method, one seed: find the weights, learn, test, write result.json and a figure."""
    cleaning, auc = images(s), None
    chosen = with_beta(s, cleaning.task)
    rule = estimator(chosen)
    tests = frame.Tests(lambda part: others(part, cleaning.mean))
    if rule is None:
        s = replace(s, steps=0)
        EXPERIMENT.claim(s)
        theta, seconds = given(s, cleaning.is_wrong), 0.0
    else:
        trained = meta_trained(s, rule, cleaning)
        theta, seconds = trained.theta, trained.seconds
        auc = detection(theta, cleaning.is_wrong)
    phi, phi_of_both = learners(s, theta, cleaning.task)
    tests.chosen((phi, phi_of_both))
    test = tests.open()
    with_valid = float(np.asarray(is_correct(phi_of_both, test)).mean())
    note = f"; {with_valid:.4f} with the validation images learned from too"
    note += "" if auc is None else f"; wrong labels by weight: AUC {auc:.4f}"
    if auc is not None:
        panels = partial(draw, theta, cleaning.is_wrong, trained.metrics)
        figure(EXPERIMENT.folder(s) / "weights", panels, 1, 3)
    return EXPERIMENT.finish(
        s, is_correct(phi, test), note=note,
        seconds=seconds, auc=auc, with_valid=with_valid, beta=chosen.beta,
    )  # fmt: skip


def draw(
    theta: jax.Array, is_wrong: np.ndarray, metrics: Sequence[dict[str, Any]], axes: Any
) -> None:
    """The weights of right and wrong labels, the detector that they make, and how it came about."""
    weights, (histogram, roc, steps) = np.asarray(jax.nn.sigmoid(theta)), axes.flat
    for chosen, colour, label in ((~is_wrong, "C0", "right"), (is_wrong, "C3", "wrong")):
        histogram.hist(weights[chosen], np.linspace(0, 1, 31), color=colour, alpha=0.6, label=label)
    histogram.set(xlabel="learned weight", ylabel="images")
    histogram.legend(title="label", frameon=False)
    order = np.argsort(np.asarray(theta), kind="stable")
    right, wrong = np.cumsum(~is_wrong[order]), np.cumsum(is_wrong[order])
    roc.plot(right / right[-1], wrong / wrong[-1])
    roc.set(xlabel="right labels called wrong", ylabel="wrong labels found")
    roc.set_title(f"AUC {detection(theta, is_wrong):.3f}", fontsize="medium")
    at = [line["step"] for line in metrics]
    steps.plot(at, [line["valid_auc"] for line in metrics], "C0", label="AUC")
    steps.plot(at, [line["valid_accuracy"] for line in metrics], "C1", label="validation accuracy")
    steps.plot(at, [line["valid_loss"] for line in metrics], "C1--", label="validation loss")
    steps.set_xlabel("meta-steps")
    steps.legend(frameon=False, fontsize="small")


if __name__ == "__main__":
    EXPERIMENT.main(run)
