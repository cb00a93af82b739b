"""The sine experiment with every estimator, at equal wall-clock.

    metacontrast run estimators --seed 0
    metacontrast table estimators

One problem (the complex synapse), one learner (`cml-gd`'s); only how the meta-gradient is obtained
differs. Each may use as many meta-steps as fit into the same time on this machine, without
compilation, by speeds that are measured first: a fast rule can make up for a crude one. The outer
rate is chosen for each, in the run itself, on validation tasks, in a quarter of that time a rate.
"""

from __future__ import annotations

import json
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

from ..tasks import sine as draw
from ..train import (
    DivergedError,
    by_first,
    meta_train,
    open_folder,
    summarise,
    write_json,
    write_result,
)
from . import sine
from ._common import TEST_SEED, VALID_SEED

NAME = "estimators"
METRIC = f"{sine.METRIC}, after equal wall-clock"
CHUNK = 10  # meta-steps in one dispatch, the least that can be trained
ROUNDS = 2
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
    method: Annotated[str, typer.Option(help=f"all, or one of {', '.join(METHODS)}.")] = "all",
    seconds: Annotated[float, typer.Option(help="Meta-training time.")] = 10.0,
    seed: Annotated[int, typer.Option(help="Draws the first network and the training tasks.")] = 0,
    out: Annotated[
        Path, typer.Option(help="Folder of the runs, OUT/METHOD/seedSEED, and of speeds.json.")
    ] = Path("runs") / NAME,
    resume: Annotated[bool, typer.Option("--resume", help="Leave out finished runs.")] = False,
) -> None:
    """Meta-learn sines for a fixed time (twice that in all); test on held-out tasks."""
    if method not in ("all", *METHODS):
        raise ValueError(f"method: unknown {method!r}; choose all or one of {', '.join(METHODS)}.")
    if not seconds > 0:
        raise ValueError(f"seconds: must be positive, not {seconds}.")
    jax.config.update("jax_compilation_cache_dir", str((out / "compiled").absolute()))
    speeds = measured_speeds(out)
    for name in METHODS if method == "all" else [method]:
        folder = out / name / f"seed{seed}"
        if not (resume and by_first((folder / "result.json").is_file)):
            result = run(name, seconds, speeds[name], seed, folder, resume)
            print(f"{name}: {result['value']} after {result['meta_steps']} meta-steps")


def measured_speeds(out: Path) -> dict[str, float]:
    """Meta-steps a second of every estimator, of out/speeds.json or measured and written there.

    Of the fastest of the dispatches of two rounds, which least else interfered with; the rounds
    are interleaved, so that the ratios are of one state of the machine.
    """
    path = out / "speeds.json"
    if not by_first(path.is_file):
        times = [[_seconds(name) for name in METHODS] for _ in range(ROUNDS)]
        best = np.min(times, axis=0)
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, {m: float(1 / t) for m, t in zip(METHODS, best, strict=True)})
    # Of several processes one is believed, or each would take another number of steps.
    found: dict[str, float] = by_first(lambda: json.loads(path.read_text()))
    return found


def _seconds(name: str) -> float:
    """Of one meta-step: the fastest dispatch of a few, after the first one, which compiles."""
    # At a rate of nought nothing can diverge.
    lines = _meta_train(_learner(name), 6, 0, 0.0).metrics[1:]
    return min(line["seconds"] for line in lines) / CHUNK


def run(
    name: str, seconds: float, speed: float, seed: int, out: Path, resume: bool = False
) -> dict[str, Any]:
    """One estimator, one seed, at `speed` meta-steps a second: choose a rate, meta-train, test."""
    n = max(1, int(seconds * speed / CHUNK))
    config = {"experiment": NAME, "method": name, "seed": seed}
    open_folder(out, config | asdict(SETTINGS) | {"steps": n * CHUNK}, resume)
    scores = sine.scorer(_learner(name))
    theta, rate, valid = _best(name, n, seed, scores)
    values = (
        np.full(sine.TEST_TASKS, np.nan)
        if theta is None
        else scores(theta, sine.held_out(TEST_SEED, sine.TEST_TASKS))
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
        outer_rate=rate,
        validation={str(rate): x if np.isfinite(x) else None for rate, x in valid.items()},
    )
    write_result(out, result)
    return result


def _best(name: str, n: int, seed: int, scores: Any) -> tuple[Any, float, dict[float, float]]:
    """theta after `n` dispatches at the rate that validation tasks chose; the rate; its losses."""
    tasks = sine.held_out(VALID_SEED, sine.VALID_TASKS)
    short = max(1, n // 4)
    valid = {rate: _loss(scores, _trained(name, short, seed, rate), tasks) for rate in RATES}
    rate = min(RATES, key=lambda rate: valid[rate])
    return _trained(name, n, seed, rate), rate, valid


def _loss(scores: Any, theta: Any, tasks: Any) -> float:
    """Infinite where meta-training, or the learning of a task, diverged."""
    loss = np.inf if theta is None else float(np.mean(scores(theta, tasks)))
    return loss if np.isfinite(loss) else np.inf


def _learner(name: str) -> sine.Method:
    return sine.METHODS["cml-gd"]._replace(estimator=METHODS[name])


def _trained(name: str, chunks: int, seed: int, rate: float) -> Any:
    """theta, or None if meta-training diverged."""
    try:
        return _meta_train(_learner(name), chunks, seed, rate).theta
    except DivergedError as error:
        print(f"{name}, outer rate {rate}: {error}")
        return None


def _outer(peak: Any, steps: Any) -> Any:
    """The outer optimiser of `sine`."""
    cosine = lambda t: jnp.cos(jnp.minimum(t / steps, 1.0) * jnp.pi)
    rate = lambda t: peak * (SETTINGS.last_rate + (1 - SETTINGS.last_rate) * (1 + cosine(t)) / 2)
    return optax.chain(optax.clip_by_global_norm(10.0), optax.adam(rate))


# With its numbers in its state, so that all runs are one program, which is compiled once.
_optimizer = optax.inject_hyperparams(_outer)


def _meta_train(learner: sine.Method, chunks: int, seed: int, rate: float) -> Any:
    settings = replace(SETTINGS, steps=chunks * CHUNK)
    return meta_train(
        learner.problem,
        learner.solve,
        learner.estimator,
        partial(draw, shots=settings.shots, queries=settings.queries),
        sine.first_theta(seed, settings.first_lambda),
        _optimizer(peak=rate, steps=float(settings.steps)),
        steps=settings.steps,
        tasks=settings.tasks,
        seed=seed,
        every=CHUNK,
        chunk=CHUNK,
        progress=False,
    )
