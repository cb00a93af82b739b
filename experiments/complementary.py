"""Sines meta-learned by complementary systems: synapses that tag, a hippocampus that replays.

    python experiments/complementary.py --method online --seed 0
    python experiments/complementary.py --method all --seed 0
    metacontrast report runs/complementary

`batch` is the ordinary rule on the same learner of one replayed item at a time, `full-batch` on
gradient descent that sees all items at each of its steps; `online` is the process of
`metacontrast.brain`, with every memory and tag perfect; each other method spoils one thing. All
share their settings, which were chosen for `online` on validation tasks. `all` also draws the
error against each imperfection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import _complementary
import frame
import jax
import jax.numpy as jnp
import numpy as np
from _complementary import PANELS
from jaxtyping import PyTree

import metacontrast as mc
from metacontrast.nets import mlp
from metacontrast.report import figure
from metacontrast.tasks import sine
from metacontrast.train import evaluator, summarise, validation

NET = mlp(1, 40, 2, 1, jnp.tanh)


@dataclass(frozen=True, kw_only=True)
class Settings(_complementary.Settings):
    """What a run depends on."""

    steps: int = 200  # Meta-steps.
    outer_rate: float = 2e-2  # Of theta.
    first_lambda: float = 50.0  # Of every synapse: so strong that both phases near their minima.
    rate: float = 1e-3  # Of learning a task; it falls on a cosine.
    shots: int = 10  # Points to learn a task from.
    queries: int = 10  # Points of its outer loss.
    test_queries: int = 100  # Points on which a held-out task is judged.


METHODS = _complementary.methods(Settings(method="online"))
EXPERIMENT = frame.Experiment(
    "complementary",
    metric="mean squared error on held-out tasks, learned from all points",
    methods=METHODS,
    default="online",
)


def item_loss(phi: PyTree, item: mc.Data) -> jax.Array:
    """Of one replayed point."""
    return jnp.sum((NET.apply(phi, item.x) - item.y) ** 2)


def squares(phi: PyTree, data: mc.Data) -> jax.Array:
    """The sum of squared errors."""
    return jnp.sum(jax.vmap(partial(item_loss, phi))(data))


PROBLEM = mc.Problem(
    init=lambda theta, task: theta.omega,
    inner=lambda phi, theta, task: squares(phi, task.train) + theta.pull(phi),
    outer=lambda phi, theta, task: squares(phi, task.test),
)


def first_theta(s: Settings) -> mc.Synapse:
    """A random network, and equal strengths of all synapses."""
    return frame.synapses(NET.init, s.seed, s.first_lambda)


def scorer(s: Settings) -> Callable[[PyTree, mc.Task], np.ndarray]:
    """`(theta, tasks) -> mean squared error of each`, learned by the method's own free phase."""
    return evaluator(
        PROBLEM,
        _complementary.learner(s, item_loss)[0],
        metric=lambda phi, theta, task: squares(phi, task.test) / len(task.test.x),
    )


def run(s: Settings) -> dict[str, Any]:
    """One method, one seed: meta-train, test, write result.json."""
    # Judged with a perfect memory, so that what is shown is what meta-learning lost, and not what a
    # learner of fewer points cannot know; and then with its own.
    scores = scorer(_complementary.perfect_memory(s))
    tasks = partial(frame.stack_tasks, partial(sine, shots=s.shots, queries=s.test_queries))
    valid_tasks = tasks("valid", s.valid_tasks)
    tests = frame.Tests(lambda part: tasks(part, s.test_tasks))
    trained = EXPERIMENT.meta_train(
        s,
        PROBLEM,
        *_complementary.learner(s, item_loss),
        partial(sine, shots=s.shots, queries=s.queries),
        first_theta(s),
        _complementary.local_optimizer(s),
        tasks=s.tasks,
        validate=lambda theta: validation(scores(theta, valid_tasks)),
    )
    theta = tests.chosen(trained.theta)
    test_tasks = tests.open()
    values = scores(theta, test_tasks)
    each = scorer(s)(theta, test_tasks) if s.forgets else values
    own = summarise(each)["value"]  # which leaves out tasks that diverged
    note = "" if own is None else f"; from its own memory {own:.4f}"
    return EXPERIMENT.finish(s, values, own_memory=own, note=note, **frame.facts(trained, s.tasks))


def overview(root: Path) -> None:
    """The figure of all methods below `root`."""
    path = figure(root / "imperfections", partial(draw_panels, EXPERIMENT.results(root)), 2, 3)
    print(f"Figure: {path}")


LABELS = {
    "capacity": "items held of each 10",
    "memory_noise": "noise on stored items",
    "decay": "fraction of a tag lost in a step",
    "tag_noise": "relative noise of what is tagged",
    "jitter": "signal early or late, steps at most",
    "at_once": "rate of consolidating at once",
}


def draw_panels(rows: Sequence[Mapping[str, Any]], axes: Any) -> None:
    """Of the seeds of all methods: means, each a small dot, and a line where all is perfect.

    Seeds differ more than many imperfections matter: compare within a seed.
    """
    for ax, field in zip(axes.flat, PANELS, strict=True):
        draw_perfect(rows, "batch", ax, color="0.8", lw=4, label="the ordinary rule, a line a seed")
        draw_perfect(rows, "online", ax, color="C0", ls="--", label="online, perfect")
        draw_spoiled(rows, field, "value", ax, "C3o-", "online, spoiled")
        if field in ("capacity", "memory_noise"):
            draw_spoiled(rows, field, "own_memory", ax, "C1s-", "tested with that memory too")
        ax.set_xscale("linear" if field == "capacity" else "log")
        ax.set_yscale("log")
        ax.set_xlabel(LABELS[field])
    limits = np.array([ax.get_ylim() for ax in axes.flat])
    for ax in axes.flat:
        ax.set_ylim(limits[:, 0].min(), limits[:, 1].max())
    for ax in axes[:, 0]:
        ax.set_ylabel("mean squared error")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    axes.flat[0].figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))


def draw_perfect(
    rows: Sequence[Mapping[str, Any]], method: str, ax: Any, label: str, **style: Any
) -> None:
    """A line for each seed."""
    for value in results(rows, method, "value"):
        ax.axhline(value, label=label, **style)
        label = "_"  # of the others none: matplotlib leaves it out


def draw_spoiled(
    rows: Sequence[Mapping[str, Any]], field: str, key: str, ax: Any, style: str, label: str
) -> None:
    """The mean at each level that was run, and the seeds around it."""
    values = {x: results(rows, f"{field.replace('_', '-')}-{x:g}", key) for x in PANELS[field]}
    values = {x: some for x, some in values.items() if some.size}
    ax.plot(list(values), [some.mean() for some in values.values()], style, label=label)
    for x, some in values.items():
        ax.plot(np.full(len(some), x), some, style[:2] + ".", ms=3)


def results(rows: Sequence[Mapping[str, Any]], method: str, key: str) -> np.ndarray:
    """What the seeds of a method say of `key`."""
    return np.array([row[key] for row in rows if row["method"] == method], float)  # None is NaN


if __name__ == "__main__":
    EXPERIMENT.main(run, overview)
