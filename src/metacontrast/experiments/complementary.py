"""Sines meta-learned by complementary systems: synapses that tag, a hippocampus that replays.

    metacontrast run complementary --method online --seed 0
    metacontrast run complementary --method all --seed 0
    metacontrast table complementary

`batch` is the ordinary rule on the same learner of one replayed item at a time, `full-batch` on
gradient descent that sees all items at each of its steps; `online` is the process of
`metacontrast.brain`, with every memory and tag perfect; each other method spoils one thing. All
share their settings, which were chosen for `online` on validation tasks.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import typer

import metacontrast as mc

from ..brain import Hippocampus, Plasticity, Tagged
from ..report import figure
from ..tasks import sine as draw
from ..train import evaluator, meta_train, summarise, write_result
from . import sine
from ._common import (
    TEST_SEED,
    VALID_SEED,
    Resume,
    Seed,
    Steps,
    folder,
    shortened,
    unfinished,
)
from ._complementary_figure import PANELS, draw_panels

NAME = "complementary"
METRIC = "mean squared error on 1,000 held-out tasks, learned from all 10 points"
SHOTS = QUERIES = 10


@dataclass(frozen=True)
class Settings:
    """What a run depends on besides its method and seed."""

    steps: int = 200
    tasks: int = 25
    outer_rate: float = 2e-2
    first_lambda: float = 50.0  # strong pulls, so that both phases come near their minima
    beta: float = 0.3
    free: int = 100
    nudged: int = 50
    rate: float = 1e-3
    # What is spoiled:
    nudge: str = "gain"
    capacity: int | None = None
    memory_noise: float = 0.0
    decay: float = 0.0
    tag_noise: float = 0.0
    jitter: int = 0
    at_once: float = 0.0


METHODS = {
    "batch": Settings(),
    "full-batch": Settings(),
    "online": Settings(),
    "mix": Settings(nudge="mix"),
} | {
    f"{field.replace('_', '-')}-{level:g}": Settings(**{field: level})  # type: ignore[arg-type]
    for field, levels in PANELS.items()
    for level in levels
}
REFERENCE = dict.fromkeys(METHODS, "")


def _item(phi: Any, item: mc.Data) -> jax.Array:
    return jnp.sum((sine.NET.apply(phi, item.x) - item.y) ** 2)


def _squares(phi: Any, data: mc.Data) -> jax.Array:
    return jnp.sum(jax.vmap(partial(_item, phi))(data))


PROBLEM = mc.Problem(
    init=lambda theta, task: theta[0],
    inner=lambda phi, theta, task: _squares(phi, task.train) + mc.attraction(phi, *theta),
    outer=lambda phi, theta, task: _squares(phi, task.test),
)


def parts(name: str, settings: Settings, item: Any = _item) -> tuple[Any, Any]:
    """How tasks are learned, given the loss of an item, and the meta-gradient found."""
    memory = Hippocampus(settings.capacity, settings.memory_noise, settings.nudge)
    # One item at a time, at a rate that falls: what the last items did must not stand out.
    rate = partial(optax.cosine_decay_schedule, settings.rate, alpha=0.05)
    phases: list[Any] = [
        Plasticity(item, rate(n), n, memory) for n in (settings.free, settings.nudged)
    ]
    if name == "full-batch":
        phases = [mc.descend(optax.sgd(phase.rate), phase.steps) for phase in phases]
    free, nudged = phases
    if name in ("batch", "full-batch"):
        return free, mc.Contrastive(settings.beta, nudged=nudged)
    imperfect = (settings.decay, settings.tag_noise, settings.jitter, settings.at_once)
    return free, Tagged(settings.beta, nudged, *imperfect)


def main(
    method: Annotated[
        str, typer.Option(help=f"One of {', '.join(METHODS)}; or all, for the figure.")
    ] = "online",
    seed: Seed = 0,
    steps: Steps = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Default: runs/complementary/METHOD/seedSEED; all: runs/complementary."),
    ] = None,
    resume: Resume = False,
) -> None:
    """Meta-learn sines by an online process, perfect or with one thing spoiled."""
    if method != "all":
        _say(run(method, seed, steps, out, resume))
        return
    root = out or Path("runs") / NAME
    for name, at in unfinished(root, METHODS, seed, resume):
        _say(run(name, seed, steps, at, resume))
    path = figure(root / "imperfections", partial(draw_panels, root), 2, 3)
    print(f"Figure: {path}")


def _say(result: dict[str, Any]) -> None:
    print(
        f"{result['method']}, seed {result['seeds'][0]}: {result['value']:.4f} +- "
        f"{result['ci95']:.4f} ({METRIC}); from its own memory {result['own_memory']:.4f}",
        flush=True,
    )


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
    tests = sine.held_out(TEST_SEED, sine.TEST_TASKS)
    spoiled = settings.capacity is not None or settings.memory_noise > 0
    # Judged with a perfect memory, so that what is seen is what meta-learning lost, and not what a
    # learner of fewer points cannot know; and then with its own.
    values = scorer(name, settings, perfect=True)(trained.theta, tests)
    own = scorer(name, settings, perfect=False)(trained.theta, tests) if spoiled else values
    result = summarise(
        values,
        experiment=NAME,
        method=name,
        metric=METRIC,
        seeds=[seed],
        meta_steps=settings.steps,
        seconds=trained.seconds,
        reference=REFERENCE[name],
        own_memory=float(np.mean(own)),
    )
    write_result(out, result)
    return result


def scorer(name: str, settings: Settings, perfect: bool) -> Any:
    """`(theta, tasks) -> mean squared error of each`, learned by the method's own free phase."""
    if perfect:
        settings = replace(settings, capacity=None, memory_noise=0.0)
    return evaluator(
        PROBLEM,
        parts(name, settings)[0],
        metric=lambda phi, theta, task: _squares(phi, task.test) / len(task.test.x),
    )


def _meta_trained(name: str, settings: Settings, seed: int, out: Path, resume: bool) -> Any:
    scores = scorer(name, settings, perfect=True)
    valid_tasks = sine.held_out(VALID_SEED, sine.VALID_TASKS)
    rate = optax.cosine_decay_schedule(settings.outer_rate, settings.steps, 0.02)
    solve, estimator = parts(name, settings)
    return meta_train(
        PROBLEM,
        solve,
        estimator,
        partial(draw, shots=SHOTS, queries=QUERIES),
        sine.first_theta(seed, settings.first_lambda),
        # Each weight by itself: no norm over all of them, which no synapse knows.
        optax.chain(optax.clip(1.0), optax.adam(rate)),
        steps=settings.steps,
        tasks=settings.tasks,
        seed=seed,
        out=out,
        resume=resume,
        # The outer rate's schedule depends on the number of steps: no other number resumes it.
        config={"experiment": NAME, "method": name, "schedule": settings.steps} | asdict(settings),
        every=max(10, settings.steps // 50 * 10),
        valid=lambda theta: {"loss": float(np.mean(scores(theta, valid_tasks)))},
    )
