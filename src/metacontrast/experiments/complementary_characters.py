"""Characters told apart by complementary systems: the process of `complementary`, on small images.

    metacontrast run complementary-characters --method online --seed 0
    metacontrast table complementary-characters

5-way 1-shot Omniglot (Vinyals' split) at 14 x 14 pixels, by a network of one hidden layer that sees
one image at a time. Settings were chosen for `online` on validation characters.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import typer

import metacontrast as mc

from ..nets import mlp
from ..tasks import episodes, omniglot
from ..train import evaluator, meta_train, summarise, write_result
from ._common import TEST_SEED, VALID_SEED, Out, Resume, Seed, Steps, folder, shortened, synapses
from .complementary import METHODS as SPOILED
from .complementary import Settings, parts

NAME = "complementary-characters"
METRIC = "accuracy in percent on 1,000 tasks of test characters"
WAY, SHOT, SIDE, QUERIES, TEST_QUERIES = 5, 1, 14, 5, 15
TEST_TASKS, VALID_TASKS = 1000, 200
NET = mlp(SIDE**2, 64, 1, WAY)
METHODS = {
    name: replace(spoiled, steps=3000, outer_rate=1e-2, first_lambda=0.1, rate=3e-2)
    for name, spoiled in SPOILED.items()
}
REFERENCE = dict.fromkeys(METHODS, "")


def _logits(phi: Any, x: jax.Array) -> jax.Array:
    return NET.apply(phi, x.reshape(-1))


def _item(phi: Any, item: mc.Data) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(_logits(phi, item.x), item.y)


def _sum(phi: Any, data: mc.Data) -> jax.Array:
    return jnp.sum(jax.vmap(partial(_item, phi))(data))


PROBLEM = mc.Problem(
    init=lambda theta, task: theta[0],
    inner=lambda phi, theta, task: _sum(phi, task.train) + mc.attraction(phi, *theta),
    outer=lambda phi, theta, task: _sum(phi, task.test),
)


def drawer(part: str, queries: int) -> Any:
    """`key -> task`, whose images come class after class in turn, as they are to be replayed."""
    draw = episodes(omniglot(part, size=SIDE), WAY, SHOT, queries, rotations=True)

    def in_turn(leaf: jax.Array) -> jax.Array:
        rows = leaf.reshape(WAY, -1, *leaf.shape[1:])
        return jnp.swapaxes(rows, 0, 1).reshape(leaf.shape)

    return lambda key: jax.tree.map(in_turn, draw(key))


def main(
    method: Annotated[str, typer.Option(help=f"One of {', '.join(METHODS)}.")] = "online",
    seed: Seed = 0,
    steps: Steps = None,
    out: Out = None,
    resume: Resume = False,
) -> None:
    """Meta-learn characters by an online process, perfect or with one thing spoiled."""
    result = run(method, seed, steps, out, resume)
    print(f"{method}, seed {seed}: {result['value']:.2f} +- {result['ci95']:.2f} ({METRIC})")


def run(
    name: str,
    seed: int = 0,
    steps: int | None = None,
    out: Path | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """One method, one seed: meta-train, test, write result.json into `out`."""
    out = folder(NAME, METHODS, name, seed, out)
    settings = shortened(METHODS[name], steps)
    trained = _meta_trained(name, settings, seed, out, resume)
    result = summarise(
        scorer(name, settings)(trained.theta, held_out("test")),
        experiment=NAME,
        method=name,
        metric=METRIC,
        seeds=[seed],
        meta_steps=settings.steps,
        seconds=trained.seconds,
        reference=REFERENCE[name],
    )
    write_result(out, result)
    return result


def held_out(part: str) -> mc.Task:
    """The tasks of "valid" or "test" characters, always the same, stacked."""
    n, seed = (TEST_TASKS, TEST_SEED) if part == "test" else (VALID_TASKS, VALID_SEED)
    return jax.jit(jax.vmap(drawer(part, TEST_QUERIES)))(jax.random.split(jax.random.key(seed), n))


def scorer(name: str, settings: Settings) -> Any:
    """`(theta, tasks) -> accuracy of each in percent`, learned with a perfect memory."""
    learner, _ = parts(name, replace(settings, capacity=None, memory_noise=0.0), _item)

    def accuracy(phi: Any, theta: Any, task: mc.Task) -> jax.Array:
        verdicts = jnp.argmax(jax.vmap(partial(_logits, phi))(task.test.x), axis=-1)
        return 100 * jnp.mean(verdicts == task.test.y)

    return evaluator(PROBLEM, learner, metric=accuracy)


def _meta_trained(name: str, settings: Settings, seed: int, out: Path, resume: bool) -> Any:
    scores, tasks = scorer(name, settings), held_out("valid")
    rate = optax.cosine_decay_schedule(settings.outer_rate, settings.steps, 0.02)
    solve, estimator = parts(name, settings, _item)

    def valid(theta: Any) -> dict[str, float]:
        mean = float(np.mean(scores(theta, tasks)))
        return {"loss": 100 - mean, "accuracy": mean}

    return meta_train(
        PROBLEM,
        solve,
        estimator,
        drawer("train", QUERIES),
        synapses(NET.init, seed, settings.first_lambda),
        # Each weight by itself: no norm over all of them, which no synapse knows.
        optax.chain(optax.clip(1.0), optax.adam(rate)),
        steps=settings.steps,
        tasks=settings.tasks,
        seed=seed,
        out=out,
        resume=resume,
        # The outer rate's schedule depends on the number of steps: no other number resumes it.
        config={"experiment": NAME, "method": name, "schedule": settings.steps} | asdict(settings),
        every=max(10, settings.steps // 30 * 10),
        valid=valid,
    )
