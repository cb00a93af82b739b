"""Part `overhead`: a meta-gradient against its own phases, run bare."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

import metacontrast as mc

from ._learners import Learner, learners
from ._measure import Measurement, Program, ratios, summarise, time_in_turns
from ._result import PartResult, Progress

PHASES, GRADIENT, WITH_AUX = "phases alone", "meta-gradient", "with diagnostics"
OfTasks = Callable[[PyTree, PyTree], PyTree]  # (theta, tasks) -> means over the tasks


def overhead(quick: bool, progress: Progress) -> PartResult:
    """Of the symmetric rule, on sine, Conv4 and LeNet-5 with the experiments' inner steps."""
    rows = []
    for name, make in learners(quick).items():
        learner = make()
        progress(f"{name}: compiles")
        compiled, compiling = _compile(learner)
        progress(f"{name}: runs")
        programs = {key: _runner(program, learner) for key, program in compiled.items()}
        seconds = time_in_turns(programs, 5 if quick else 25, 0.1, max_total=5 if quick else 40)
        rows += [
            summarise(name, "phases alone (ms)", 1e3 * seconds[PHASES]),
            summarise(name, "meta-gradient / phases", ratios(seconds, GRADIENT, PHASES)),
            summarise(name, "with diagnostics / phases", ratios(seconds, WITH_AUX, PHASES)),
            Measurement(name, "phases compile (s)", compiling[PHASES]),
            Measurement(name, "meta-gradient compiles (s)", compiling[GRADIENT]),
        ]
    return PartResult({"Overhead of the rule" + " (quick)" * quick: rows})


def programs(learner: Learner) -> dict[str, OfTasks]:
    """Where the nudged phases end; the meta-gradient; and the same with diagnostics."""
    problem, free, nudged, beta, *_ = learner
    rule = mc.Contrastive(beta, "symmetric", nudged=nudged)
    gradient = mc.meta_gradient(problem, free, rule, by_z=False)

    def phases(theta: PyTree, task: PyTree) -> PyTree:
        loss = mc.Loss(problem, theta, task)
        phi_0 = mc.solve_inner(problem, free, theta, task).phi
        augmented = lambda b: lambda phi: loss.inner(phi) + b * loss.outer(phi)
        return [nudged(augmented(b), phi_0).phi for b in (-beta, beta)]

    def with_aux(theta: PyTree, task: PyTree) -> PyTree:
        meta = gradient(theta, task)
        return meta.value, meta.by_theta, meta.aux

    def mean(of_task: OfTasks) -> OfTasks:
        return lambda theta, tasks: jax.tree.map(
            lambda leaf: jnp.mean(leaf, 0), jax.vmap(of_task, (None, 0))(theta, tasks)
        )

    alone = lambda theta, task: with_aux(theta, task)[:2]
    return {PHASES: mean(phases), GRADIENT: mean(alone), WITH_AUX: mean(with_aux)}


def _compile(learner: Learner) -> tuple[dict[str, Any], dict[str, float]]:
    compiled, seconds = {}, {}
    for key, program in programs(learner).items():
        began = time.perf_counter()
        lowered = jax.jit(program).lower(learner.theta, learner.tasks)
        compiled[key] = lowered.compile()
        seconds[key] = time.perf_counter() - began
    return compiled, seconds


def _runner(program: Any, learner: Learner) -> Program:
    return lambda: jax.block_until_ready(program(learner.theta, learner.tasks))
