"""Part `overhead`: a meta-gradient against its own phases, run bare."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import metacontrast as mc

from ._images import Learning, learnings
from ._measure import Figure, interleaved, ratios, summary
from ._part import Found, Tell

BARE, RULE, TOLD = "bare", "meta-gradient", "with diagnostics"


def overhead(quick: bool, tell: Tell) -> Found:
    """Of the symmetric rule, on sine, Conv4 and LeNet-5 with the experiments' inner steps."""
    figures = []
    for name, make in learnings(quick).items():
        learning = make()
        tell(f"{name}: compiles")
        compiled, seconds = _compiled(learning)
        tell(f"{name}: runs")
        subjects = {key: _ran(program, learning) for key, program in compiled.items()}
        taken = interleaved(subjects, 5 if quick else 25, least=0.1, most=5 if quick else 40)
        figures += [
            summary(name, "phases alone (ms)", 1e3 * taken[BARE]),
            summary(name, "meta-gradient / phases", ratios(taken, RULE, BARE)),
            summary(name, "with diagnostics / phases", ratios(taken, TOLD, BARE)),
            Figure(name, "phases compile (s)", seconds[BARE]),
            Figure(name, "meta-gradient compiles (s)", seconds[RULE]),
        ]
    return Found({"Overhead of the rule" + " (quick)" * quick: figures})


def programs(learning: Learning) -> dict[str, Callable[[Any, Any], Any]]:
    """`(theta, tasks)` to what each phase learned; to the mean meta-gradient; and diagnostics."""
    problem, betas = learning.problem, (-learning.beta, learning.beta)
    rule = mc.Contrastive(learning.beta, "symmetric", nudged=learning.nudged)

    def phases(theta: Any, task: Any) -> Any:
        phi_0 = mc.learn(problem, learning.free, theta, task).phi
        return [learning.nudged(problem.loss(theta, task, b), phi_0).phi for b in betas]

    def told(theta: Any, task: Any) -> Any:
        return rule.value_and_grad(problem, learning.free, theta, task)

    def mean(each: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        return lambda theta, tasks: jax.tree.map(
            lambda leaf: jnp.mean(leaf, 0), jax.vmap(each, (None, 0))(theta, tasks)
        )

    def gradient(theta: Any, task: Any) -> Any:
        (value, _), grad = told(theta, task)
        return value, grad

    return {BARE: mean(phases), RULE: mean(gradient), TOLD: mean(told)}


def _compiled(learning: Learning) -> tuple[dict[str, Any], dict[str, float]]:
    compiled, seconds = {}, {}
    for key, program in programs(learning).items():
        began = time.perf_counter()
        lowered = jax.jit(program).lower(learning.theta, learning.tasks)
        compiled[key] = lowered.compile()
        seconds[key] = time.perf_counter() - began
    return compiled, seconds


def _ran(program: Any, learning: Learning) -> Callable[[], Any]:
    return lambda: jax.block_until_ready(program(learning.theta, learning.tasks))
