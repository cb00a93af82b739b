"""A run of few-shot classification: meta-train, choose on validation classes, test, draw.

Shared by Omniglot and miniImageNet; what learns is in `_few_shot_learners.py`.
"""

from __future__ import annotations

import argparse
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self, TypeAlias, TypeVar

import frame
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree
from tyro.conf import FlagConversionOff

import metacontrast as mc
from metacontrast._precision import Precision
from metacontrast.report import figure
from metacontrast.tasks import Images, episodes
from metacontrast.train import Trained, evaluator, save_theta

Features: TypeAlias = Callable[[PyTree, mc.Task], tuple[PyTree, PyTree]]
BATCH = 20  # held-out tasks whose images are in memory together
LOOKS = ("step", "meta_loss", "residual", "valid_accuracy")  # what a result keeps of the way


@dataclass(frozen=True, kw_only=True)
class Settings(frame.Settings):
    """What a run depends on."""

    way: int  # Classes a task.
    shot: int = 1  # Images of each class to learn from.
    published: bool = False  # Start from the published settings, for a GPU. Default: ours.
    tasks: int  # Tasks a meta-step.
    train_way: int | None = None  # Classes of a training task. Default: as many as when tested.
    queries: int  # Images of each class in the outer loss.
    outer_rate: float  # Of theta.
    last_rate: float = 0.01  # Of the outer rate, at the end of its cosine.
    size: int = 28  # Width and height of the images.
    filters: tuple[int, int, int, int] = (64, 64, 64, 64)  # Of each layer.
    precision: Precision = "highest"  # Of the network's products; the others are faster on a GPU.
    distort: float = 0.0  # How strongly training images are shifted, turned and stretched.
    mirror: FlagConversionOff[bool] = (
        False  # Exchange left and right in half of the training images.
    )
    inner_rate: float = 0.0  # Of descent on a task.
    inner_steps: int = 0  # Of descent on a task.
    test_steps: int | None = None  # Of descent on a held-out task. Default: as in training.
    nudged_steps: int = 0  # Inner steps of a nudged phase.
    beta: float = 0.0  # The strength of the nudge.
    nudge: Literal["outer", "linear"] = "outer"  # By the outer loss, or its slope at the free end.
    side_by_side: FlagConversionOff[bool] = False  # Both nudged phases in one batch.
    pull: float = 0.0  # Lambda of the synapses, which is not learned here.
    largest_gain: float | None = None  # Of theta's normalised layers. Default: any.
    centred: FlagConversionOff[bool] = (
        False  # The head of fast weights sees features less their mean over the batch.
    )
    unit: FlagConversionOff[bool] = False  # Features of cml-head are centred and of length one.
    views: int = 0  # Distorted copies of each held-out image; verdicts are averaged over them.
    references: int = 500  # Training classes by which cml-head normalises held-out images.
    test_tasks: int = 1000  # On which the best theta is judged, once.
    test_queries: int = 15  # Images of each class of a test task to be judged on.
    valid_tasks: int = 100  # By which the best theta is chosen.
    valid_queries: int = 5  # Images of each class of these tasks to be judged on.
    validations: int = 20  # How often theta is validated.

    @property
    def kind(self) -> tuple[str, ...]:
        """What kind of tasks it is about, for the table and the folder."""
        return (f"{self.way}w{self.shot}s",)

    def shorten(self) -> Self:
        """Minutes: `steps` is for each experiment to say."""
        return replace(self, views=0, test_tasks=200, valid_tasks=20, validations=4)


@dataclass(frozen=True)
class Learner(ABC):
    """What a method meta-trains, and how its theta is tested."""

    s: Settings
    channels: int = 1  # of the images

    transductive: ClassVar[bool] = True  # a verdict depends on the other query images

    @abstractmethod
    def first_theta(self, key: jax.Array) -> PyTree:
        """Where meta-training starts."""

    @abstractmethod
    def layers(self, theta: PyTree) -> list[Any]:
        """The weights of the convolutional network."""

    @abstractmethod
    def problem(self, test: bool = False) -> mc.Problem:
        """What is learned: in meta-training, or when theta is tested."""

    @abstractmethod
    def solver(self, test: bool = False) -> mc.Solver:
        """How it is learned."""

    @abstractmethod
    def estimator(self) -> mc.Estimator:
        """How the meta-gradient is obtained."""

    @abstractmethod
    def logits(self, phi: PyTree, theta: PyTree, x: jax.Array) -> jax.Array:
        """Of the query images of a held-out task; called as the losses are."""

    def features(self, test: bool = False) -> Features | None:
        """`(theta, task) -> (theta, z)`, with which the problem is called; None: as they are."""
        return None

    def prepare(self, theta: PyTree, references: jax.Array) -> PyTree:
        """Theta as it is tested, given images of training classes."""
        return theta


S = TypeVar("S", bound=Settings)


@dataclass(frozen=True, kw_only=True)
class Experiment(frame.Experiment[S]):
    """Its defaults depend on the kind of task too, and so do its folders."""

    for_kind: Callable[..., S]  # (method, way, shot, and those of `flags`) -> defaults
    flags: tuple[str, ...] = ("published",)  # of the command line, which choose the defaults too

    def main(
        self, run: Callable[[S], object], overview: Callable[[Path], object] | None = None
    ) -> None:
        """The same, once the kind of task is known: an option not given is what suits it."""
        kind = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        default = self.methods[self.default]
        kind.add_argument("--way", type=int, default=default.way)
        kind.add_argument("--shot", type=int, default=default.shot)
        for flag in self.flags:
            kind.add_argument(f"--{flag}", action="store_true")
        given, _ = kind.parse_known_args()
        methods = {method: self.for_kind(method, **vars(given)) for method in self.methods}
        super(Experiment, replace(self, methods=methods)).main(run, overview)

    def _all(self, several: list[S], run: Any, overview: Any) -> None:
        # In a folder of their own: with --resume, tasks of another kind would be taken for done.
        root = several[0].out or Path("runs", self.name, *several[0].kind)
        super()._all([replace(s, out=root) for s in several], run, overview)

    def default_of(self, settings: S) -> S:
        """For its kind of task, which the command must say."""
        s, usual = settings, self.methods[self.default]
        flags = {flag: getattr(s, flag) for flag in self.flags}
        own = self.for_kind(s.method, s.way, s.shot, **flags)
        return replace(own, way=usual.way, shot=usual.shot)

    def folder(self, settings: S) -> Path:
        """Where this run writes: by default, runs/EXPERIMENT/KIND/METHOD/seedSEED."""
        s = settings
        default = Path("runs", self.name, *s.kind, s.method, f"seed{s.seed}")
        return super().folder(replace(s, out=s.out or default))


class Classes(NamedTuple):
    """Whose images tasks are made of."""

    images: Callable[[str], Images]  # of "train", "valid" and "test"
    rotate_train: bool = False  # turned images are further classes, in training
    rotate_held_out: bool = False  # and when held out

    def held_out(
        self, part: str, s: Settings, n: int, queries: int
    ) -> Callable[[], Iterator[mc.Task]]:
        """`n` tasks of held-out classes, always the same, stacked, a few at a time."""
        turned = self.rotate_held_out
        sample_task = episodes(self.images(part), s.way, s.shot, queries, rotations=turned)
        sample_tasks = jax.jit(jax.vmap(sample_task))
        keys = jax.random.split(frame.held_out(part), n)
        return lambda: (sample_tasks(keys[i : i + BATCH]) for i in range(0, n, BATCH))


def run(experiment: Experiment[S], s: S, learner: Learner, classes: Classes) -> dict[str, Any]:
    """Meta-train, test the theta that validation chose, write result.json and figures."""
    references = first_images(s, classes.images("train"))
    scores = scorer(learner, references)
    tests = frame.Tests(lambda part: classes.held_out(part, s, s.test_tasks, s.test_queries))
    trained = meta_train(experiment, s, learner, classes, scores)
    best = tests.chosen(trained.best)
    test_tasks = tests.open()
    accuracies = scores(best, test_tasks())
    task = jax.tree.map(lambda leaf: leaf[0], next(test_tasks()))
    theta, out = learner.prepare(best, references), experiment.folder(s)
    save_theta(out / "tested.npz", theta)  # by which tasks are learned without the training images
    figure(out / "episode", partial(draw_episode, learner, theta, task), 1, 2)
    figure(out / "learning", partial(draw_learning, trained.metrics), 1, 2)
    figure(out / "filters", partial(draw_filters, learner.layers(trained.best)[0]["w"]))
    return experiment.finish(
        s,
        accuracies,
        label=" ".join((s.kind[0], s.method, *s.kind[1:])),
        **frame.facts(trained, s.tasks),
        transductive=learner.transductive,
        curve=[{name: line[name] for name in LOOKS if name in line} for line in trained.metrics],
    )


def first_images(s: Settings, images: Images) -> jax.Array:
    """Of classes spread over all: what verdicts on single images may depend on."""
    few = images.pixels[:: max(1, len(images.pixels) // s.references), 0]
    return jnp.asarray(few, jnp.float32) / 255


def scorer(
    learner: Learner, references: jax.Array
) -> Callable[[PyTree, Iterable[mc.Task]], np.ndarray]:
    """`scores(theta, stacks of tasks)`: the accuracy of each task in percent."""

    def accuracy(phi: PyTree, theta: PyTree, task: mc.Task) -> jax.Array:
        verdicts = jnp.argmax(learner.logits(phi, theta, task.test.x), -1)
        return 100 * jnp.mean(verdicts == task.test.y)

    problem, solver = learner.problem(test=True), learner.solver(test=True)
    features = learner.features(test=True)
    each = evaluator(problem, solver, metric=accuracy, batch=BATCH, features=features)
    prepare = jax.jit(learner.prepare)

    def scores(theta: PyTree, stacks: Iterable[mc.Task]) -> np.ndarray:
        theta = prepare(theta, references)
        return np.concatenate([each(theta, tasks) for tasks in stacks])

    return scores


def meta_train(
    experiment: Experiment[S], s: S, learner: Learner, classes: Classes, scores: Any
) -> Trained:
    """Of which `best` is the theta that validation classes chose."""
    sample_task = episodes(
        classes.images("train"), s.train_way or s.way, s.shot, s.queries,
        rotations=classes.rotate_train, distort=s.distort, mirror=s.mirror,
    )  # fmt: skip
    tasks = classes.held_out("valid", s, s.valid_tasks, s.valid_queries)

    def validate(theta: PyTree) -> dict[str, float]:
        mean = float(np.mean(scores(theta, tasks())))
        return {"loss": 100.0 - mean, "accuracy": mean}

    return experiment.meta_train(
        s, learner.problem(), learner.solver(), learner.estimator(), sample_task,
        learner.first_theta(frame.first_key(s.seed)),
        outer_optimizer(s),
        tasks=s.tasks, features=learner.features(), validate=validate,
        log_every=max(10, s.steps // (10 * s.validations) * 10),
    )  # fmt: skip


def outer_optimizer(s: Settings) -> optax.GradientTransformation:
    """Adam on a cosine; with `largest_gain`, no update leads beyond it.

    The gain of the last normalised layer scales the features that the head learns from, and the
    curvature of its loss goes with that scale squared. The meta-loss falls as it grows, and the
    rule does not see that at a curvature of 27 learning at rate 0.05 with Nesterov's momentum of
    0.9 ceases to converge: meta-gradients then are noise, a hundred times as large.
    """
    optimizer = frame.outer_optimizer(s.outer_rate, s.steps, s.last_rate)
    if (most := s.largest_gain) is None:
        return optimizer

    def within(path: tuple[Any, ...], update: jax.Array, x: jax.Array) -> jax.Array:
        if path[-1] != jax.tree_util.DictKey("gain"):
            return update
        return jnp.clip(x + update, -most, most) - x

    bounded = optax.stateless(lambda u, theta: jax.tree_util.tree_map_with_path(within, u, theta))
    return optax.chain(optimizer, bounded)


def draw_episode(learner: Learner, theta: PyTree, task: mc.Task, axes: Any) -> None:
    """A task: an example of each class to learn from, and one query of each under its verdict."""

    @jax.jit
    def logits(theta: PyTree, task: mc.Task) -> jax.Array:
        features = learner.features(test=True)
        theta, z = (theta, task) if features is None else features(theta, task)
        phi = mc.solve_inner(learner.problem(test=True), learner.solver(test=True), theta, z).phi
        return learner.logits(phi, theta, z.test.x)

    verdicts = np.argmax(logits(theta, task), axis=-1)
    titles = ("learned from", "query: the class it is taken for")
    halves = ((task.train, task.train.y), (task.test, verdicts))
    for ax, (data, labels), title in zip(axes.flat, halves, titles, strict=True):
        _, first = np.unique(data.y, return_index=True)  # tasks are ordered by class
        draw_tiles(ax, np.asarray(data.x)[first], np.asarray(labels)[first])
        ax.set_title(title, fontsize=9)


def draw_tiles(ax: Any, x: np.ndarray, labels: np.ndarray) -> None:
    """Images on a grid, five a row, each with its label; red where it is not its own number."""
    n, side = len(x), x.shape[1]
    sheet = np.ones((-(-n // 5) * (side + side // 3), 5 * (side + 4), x.shape[3]))
    for i, (image, label) in enumerate(zip(x, labels, strict=True)):
        top, left = i // 5 * (side + side // 3) + side // 3, i % 5 * (side + 4)
        sheet[top : top + side, left : left + side] = 1 - image if x.shape[3] == 1 else image
        ax.text(left, top - 2, str(label), fontsize=6, color="k" if label == i else "r")
    ax.imshow(sheet.squeeze(), cmap="gray", vmin=0, vmax=1)
    ax.set_axis_off()


def draw_learning(metrics: Sequence[Mapping[str, Any]], axes: Any) -> None:
    """Meta-loss in training and accuracy on validation classes, by meta-step."""
    steps = [line["step"] for line in metrics]
    labels = {"meta_loss": "meta-loss, training", "valid_accuracy": "validation accuracy (%)"}
    for ax, (name, label) in zip(axes.flat, labels.items(), strict=True):
        ax.plot(steps, [line[name] for line in metrics])
        ax.set_xlabel("meta-steps")
        ax.set_ylabel(label)


def draw_filters(kernels: jax.Array, axes: Any) -> None:
    """The first layer's kernels (height, width, channels, filters), eight a row, each on its scale.

    Of colour images in colour; of others light where positive.
    """
    w = np.moveaxis(np.asarray(kernels), -1, 0)
    largest = np.maximum(np.abs(w).max(axis=(1, 2, 3), keepdims=True), 1e-12)
    side = w.shape[1] + 1
    sheet = np.ones((-(-len(w) // 8) * side - 1, 8 * side - 1, w.shape[3]))
    for i, kernel in enumerate(0.5 + 0.5 * w / largest):
        top, left = i // 8 * side, i % 8 * side
        sheet[top : top + side - 1, left : left + side - 1] = kernel
    axes[0, 0].imshow(sheet.squeeze(), cmap="gray", vmin=0, vmax=1)
    axes[0, 0].set_axis_off()
    axes[0, 0].set_title("kernels of the first layer", fontsize=9)
