"""Characters told apart by complementary systems: the process of `complementary`, on small images.

    python experiments/complementary_characters.py --method online --seed 0
    metacontrast report runs/complementary-characters

5-way 1-shot Omniglot (Vinyals' split) at 14 x 14 pixels, by a network of one hidden layer that sees
one image at a time. Settings were chosen for `online` on validation characters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import _complementary
import frame
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

import metacontrast as mc
from metacontrast.nets import Net, mlp
from metacontrast.tasks import episodes, omniglot
from metacontrast.train import evaluator


@dataclass(frozen=True, kw_only=True)
class Settings(_complementary.Settings):
    """What a run depends on."""

    steps: int = 3000  # Meta-steps.
    outer_rate: float = 1e-2  # Of theta.
    first_lambda: float = 0.1  # Of every synapse; it is learned.
    rate: float = 3e-2  # Of learning a task; it falls on a cosine.
    way: int = 5  # Classes a task.
    shot: int = 1  # Drawings of each class to learn from.
    queries: int = 5  # Drawings of each class in the outer loss.
    test_queries: int = 15  # Drawings of each class on which a held-out task is judged.
    side: int = 14  # Width and height of the images.
    hidden: int = 64  # Units of the hidden layer.


METHODS = _complementary.methods(Settings(method="online"))
EXPERIMENT = frame.Experiment(
    "complementary-characters",
    metric="accuracy in percent on tasks of test characters",
    methods=METHODS,
    default="online",
)


def network(s: Settings) -> Net:
    """One hidden layer."""
    return mlp(s.side**2, s.hidden, 1, s.way)


def logits(s: Settings, phi: PyTree, x: jax.Array) -> jax.Array:
    """Of one image."""
    return network(s).apply(phi, x.reshape(-1))


def item_loss(s: Settings, phi: PyTree, item: mc.Data) -> jax.Array:
    """Of one replayed image."""
    return optax.softmax_cross_entropy_with_integer_labels(logits(s, phi, item.x), item.y)


def problem(s: Settings) -> mc.Problem:
    """The complex synapse: omega and one lambda a weight are learned; learning starts at omega."""

    def total(phi: PyTree, data: mc.Data) -> jax.Array:
        return jnp.sum(jax.vmap(partial(item_loss, s, phi))(data))

    return mc.Problem(
        init=lambda theta, task: theta.omega,
        inner=lambda phi, theta, task: total(phi, task.train) + theta.pull(phi),
        outer=lambda phi, theta, task: total(phi, task.test),
    )


def sampler(s: Settings, part: str, queries: int) -> Callable[[jax.Array], mc.Task]:
    """`key -> task`, whose images come class after class in turn, as they are to be replayed."""
    sample_task = episodes(omniglot(part, size=s.side), s.way, s.shot, queries, rotations=True)

    def alternate(leaf: jax.Array) -> jax.Array:
        rows = leaf.reshape(s.way, -1, *leaf.shape[1:])
        return jnp.swapaxes(rows, 0, 1).reshape(leaf.shape)

    return lambda key: jax.tree.map(alternate, sample_task(key))


def learner(s: Settings) -> tuple[mc.Solver, mc.Estimator]:
    """How tasks are learned, and the meta-gradient's estimator."""
    return _complementary.learner(s, partial(item_loss, s))


def scorer(s: Settings) -> Callable[[PyTree, mc.Task], np.ndarray]:
    """`(theta, tasks) -> accuracy of each in percent`, learned with a perfect memory."""

    def accuracy(phi: PyTree, theta: PyTree, task: mc.Task) -> jax.Array:
        verdicts = jnp.argmax(jax.vmap(partial(logits, s, phi))(task.test.x), axis=-1)
        return 100 * jnp.mean(verdicts == task.test.y)

    return evaluator(problem(s), learner(_complementary.perfect_memory(s))[0], metric=accuracy)


def first_theta(s: Settings) -> mc.Synapse:
    """A random network, and equal strengths of all synapses."""
    return frame.synapses(network(s).init, s.seed, s.first_lambda)


def run(s: Settings) -> dict[str, Any]:
    """One method, one seed: meta-train, test, write result.json."""
    scores = scorer(s)
    tasks = lambda part, n: frame.stack_tasks(sampler(s, part, s.test_queries), part, n)
    valid_tasks = tasks("valid", s.valid_tasks)
    tests = frame.Tests(lambda part: tasks(part, s.test_tasks))

    def validate(theta: PyTree) -> dict[str, float]:
        mean = float(np.mean(scores(theta, valid_tasks)))
        return {"loss": 100 - mean, "accuracy": mean}

    trained = EXPERIMENT.meta_train(
        s,
        problem(s),
        *learner(s),
        sampler(s, "train", s.queries),
        first_theta(s),
        _complementary.local_optimizer(s),
        tasks=s.tasks,
        validate=validate,
    )
    theta = tests.chosen(trained.theta)
    return EXPERIMENT.finish(s, scores(theta, tests.open()), **frame.facts(trained, s.tasks))


if __name__ == "__main__":
    EXPERIMENT.main(run)
