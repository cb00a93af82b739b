"""The sine experiment with every estimator, at equal wall-clock.

    metacontrast run estimators --method contrastive --seed 0
    metacontrast table estimators

One problem (the complex synapse), one learner (`cml-gd`'s); only how the meta-gradient is obtained
differs. Each may use as many meta-steps as fit into the same time on this machine, without
compilation: a fast rule can make up for a crude one. The outer rate is chosen for each, in the run
itself, on validation tasks, in a quarter of that time for every rate.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

import metacontrast as mc

from ..tasks import sine as draw
from ..train import DivergedError, meta_train, open_folder, summarise, write_result
from . import sine

NAME = "estimators"
METRIC = f"{sine.METRIC}, after equal wall-clock"
CHUNK = 10  # meta-steps in one dispatch, the least that can be trained
RATES = (3e-3, 1e-2, 3e-2, 1e-1)
FREE, NUDGED = 100, 50  # steps of descent, as cml-gd takes
_nudged = sine.nesterov(NUDGED)
METHODS: dict[str, Any] = {
    "contrastive": mc.Contrastive(0.05, nudged=_nudged),
    "contrastive-control": mc.Contrastive(0.05, nudged=_nudged, control=True),
    "contrastive-symmetric": mc.Contrastive(0.05, "symmetric", nudged=_nudged),
    "contrastive-holomorphic": mc.Contrastive(0.05, "holomorphic", nudged=_nudged),
    "unrolled": mc.Unrolled(),
    "unrolled-truncated": mc.Unrolled(truncate=FREE // 10),
    "unrolled-remat": mc.Unrolled(remat=True),
    # The inner Hessian is indefinite for a network that has not converged, hence the damping.
    "implicit-cg": mc.Implicit("cg", 10, damping=10.0),
    "implicit-hessian-free": mc.Implicit("cg", 10, damping=10.0, hessian_free=True),
    "implicit-neumann": mc.Implicit("neumann", NUDGED, rate=1e-3),
    "implicit-identity": mc.Implicit("identity"),
    "first-order": mc.FirstOrder(),
    "reptile": mc.Reptile(),
    "evolution": mc.Evolution(sigma=0.02, pairs=10),
}
REFERENCE = dict.fromkeys(METHODS, "")
SETTINGS = replace(sine.METHODS["cml-gd"].settings, steps=CHUNK)


def main(
    method: Annotated[str, typer.Option(help=f"One of {', '.join(METHODS)}.")] = "contrastive",
    seconds: Annotated[float, typer.Option(help="Meta-training time.")] = 20.0,
    seed: Annotated[int, typer.Option(help="Draws the first network and the training tasks.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Default: runs/estimators/METHOD/seedSEED.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Do the run in OUT again.")] = False,
) -> None:
    """Meta-learn sines with one estimator for a fixed time (twice that in all), and test it."""
    if method not in METHODS:
        raise ValueError(f"method: unknown {method!r}; choose one of {', '.join(METHODS)}.")
    if not seconds > 0:
        raise ValueError(f"seconds: must be positive, not {seconds}.")
    out = out or Path("runs") / NAME / method / f"seed{seed}"
    result = run(method, seconds, seed, out, resume)
    print(f"{method}: {result['value']:.4f} after {result['meta_steps']} meta-steps ({METRIC})")


def run(name: str, seconds: float, seed: int, out: Path, resume: bool = False) -> dict[str, Any]:
    """One estimator, one seed: choose a rate, meta-train for the time, test; result.json."""
    config = {"experiment": NAME, "method": name, "seed": seed, "seconds": seconds}
    open_folder(out, config | asdict(SETTINGS), resume)
    learner = sine.METHODS["cml-gd"]._replace(estimator=METHODS[name])
    scores = sine.scorer(learner)
    speed = _speed(learner, seed)
    chunks = seconds * speed / CHUNK
    valid_tasks = sine.held_out(sine.VALID_SEED, sine.VALID_TASKS)
    valid = {}
    for rate in RATES:
        theta = _trained(learner, max(1, int(chunks / 4)), seed, rate)
        valid[rate] = _loss(scores, theta, valid_tasks)
    best = min(RATES, key=lambda rate: valid[rate])
    n = max(1, int(chunks))
    theta = _trained(learner, n, seed, best)
    values = (
        np.full(sine.TEST_TASKS, np.nan)
        if theta is None
        else scores(theta, sine.held_out(sine.TEST_SEED, sine.TEST_TASKS))
    )
    result = summarise(
        values,
        experiment=NAME,
        method=name,
        metric=METRIC,
        seeds=[seed],
        meta_steps=n * CHUNK,
        seconds=n * CHUNK / speed,
        reference=REFERENCE[name],
        outer_rate=best,
        validation={str(rate): x if np.isfinite(x) else None for rate, x in valid.items()},
    )
    write_result(out, result)
    return result


def _loss(scores: Any, theta: Any, tasks: Any) -> float:
    """Infinite where meta-training, or the learning of a task, diverged."""
    loss = np.inf if theta is None else float(np.mean(scores(theta, tasks)))
    return loss if np.isfinite(loss) else np.inf


def _speed(learner: sine.Method, seed: int) -> float:
    """Meta-steps a second, of the fastest of ten dispatches, which least else interfered with."""
    # At a rate of nought, so that nothing can diverge; the first dispatch compiles.
    lines = _meta_train(learner, 11, seed, 0.0).metrics[1:]
    return CHUNK / min(line["seconds"] for line in lines)


def _trained(learner: sine.Method, chunks: int, seed: int, rate: float) -> Any:
    """theta, or None if meta-training diverged."""
    try:
        return _meta_train(learner, chunks, seed, rate).theta
    except DivergedError as error:
        print(f"outer rate {rate}: {error}")
        return None


def _meta_train(learner: sine.Method, chunks: int, seed: int, rate: float) -> Any:
    settings = replace(SETTINGS, steps=chunks * CHUNK, outer_rate=rate)
    return meta_train(
        learner.problem,
        learner.solve,
        learner.estimator,
        partial(draw, shots=settings.shots, queries=settings.queries),
        sine.first_theta(seed, settings.first_lambda),
        sine.outer_optimizer(settings),
        steps=settings.steps,
        tasks=settings.tasks,
        seed=seed,
        every=CHUNK,
        chunk=CHUNK,
        progress=False,
    )
