"""Part `accuracy`: the time that each estimator needs for a gradient of a given accuracy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

import metacontrast as mc

from ..experiments._theory_measure import exactly
from ..experiments._theory_problems import PROBLEMS, Part
from ._growth_figure import plain
from ._measure import Figure, interleaved, ratios, summary
from ._part import Drawing, Found, Tell

OURS = "contrastive"
TARGETS = (1e-1, 1e-2, 1e-3, 1e-4)
LADDER = (15, 30, 60, 120)
BETA = 1e-2


class Try(NamedTuple):
    """One setting of an estimator: the error of its meta-gradient, and seconds in each round."""

    estimator: str
    setting: str
    error: float
    seconds: np.ndarray


def accuracy(quick: bool, tell: Tell) -> Found:
    """Symmetric contrast, implicit differentiation by CG and backpropagation through training.

    On the theory's smooth problems, in float64, against the exact meta-gradient. Each is given
    several learners and numbers of steps; counted is the fastest setting that reaches an accuracy.
    """
    notes, tables, tries = {}, {}, {}
    with jax.enable_x64(True):
        for name in ("network",) if quick else ("digits", "network"):
            try:
                part = PROBLEMS[name](0)
            except ValueError as error:  # scikit-learn is not installed
                notes[name] = str(error)
                continue
            tries[name] = _tried(part, LADDER[:2] if quick else LADDER, lambda s: tell(s), quick)
            tables[f"Time to an accuracy, {name}"] = reached(tries[name])
    return Found(tables, notes, Drawing(partial(_draw, tries), 1, max(1, len(tries))))


def reached(tries: Iterable[Try]) -> list[Figure]:
    """For each accuracy the fastest setting of each estimator that reaches it, and its ratio."""
    tries, figures = list(tries), []
    for target in TARGETS:
        fastest: dict[str, Try] = {}
        for one in tries:
            best = fastest.get(one.estimator)
            if one.error <= target and (best is None or _median(one) < _median(best)):
                fastest[one.estimator] = one
        seconds = {name: one.seconds for name, one in fastest.items()}
        for name, one in fastest.items():
            figures.append(summary(name, f"ms to {target:.0e}", 1e3 * one.seconds))
            if OURS in fastest and name != OURS:
                over = ratios(seconds, name, OURS)
                figures.append(summary(name, f"over ours, {target:.0e}", over))
    return figures


def _median(one: Try) -> float:
    return float(np.median(one.seconds))


def settings(part: Part, n: int) -> dict[tuple[str, str], tuple[Any, Any]]:
    """(solver, estimator) by (estimator, setting), for free phases of the order of `n` steps."""
    descent = lambda steps: mc.descend(optax.sgd(part.rate, 0.9), steps)
    lbfgs = lambda steps: mc.lbfgs(1e-13, steps)
    anderson = lambda steps: mc.anderson(part.rate, 1e-13, steps)
    cg = mc.Implicit("cg", n // 3)
    nudged = lambda solve: mc.Contrastive(BETA, "symmetric", nudged=solve)
    return {
        (OURS, f"L-BFGS {n}, {n // 3}"): (lbfgs(n), nudged(lbfgs(n // 3))),
        (OURS, f"L-BFGS {n}, Anderson {n // 3}"): (lbfgs(n), nudged(anderson(n // 3))),
        (OURS, f"descent {3 * n}, {n}"): (descent(3 * n), nudged(descent(n))),
        (OURS, f"descent {3 * n}, Anderson {n // 3}"): (descent(3 * n), nudged(anderson(n // 3))),
        ("implicit, CG", f"L-BFGS {n}, CG {n // 3}"): (lbfgs(n), cg),
        ("implicit, CG", f"descent {3 * n}, CG {n // 3}"): (descent(3 * n), cg),
        ("unrolled", f"descent {n}"): (descent(n), mc.Unrolled()),
        ("unrolled", f"descent {3 * n}"): (descent(3 * n), mc.Unrolled()),
    }


def _tried(part: Part, ladder: Iterable[int], tell: Tell, quick: bool) -> list[Try]:
    exact = np.asarray(ravel_pytree(exactly(part)[1])[0])
    programs: dict[tuple[str, str], Callable[[], np.ndarray]] = {}
    for n in ladder:
        tell(f"about {n} steps: compiles")
        programs |= {key: _program(part, *pair) for key, pair in settings(part, n).items()}
    errors = {key: _distance(run(), exact) for key, run in programs.items()}
    tell("all, interleaved")
    taken = interleaved(_named(programs), 3 if quick else 9, 0.01, 5 if quick else 30)
    return [Try(*key, errors[key], taken[_name(key)]) for key in programs]


def _program(part: Part, solve: Any, estimator: Any) -> Callable[[], np.ndarray]:
    def gradient(theta: Any, task: Any) -> Any:
        return ravel_pytree(estimator.value_and_grad(part.problem, solve, theta, task)[1])[0]

    compiled = jax.jit(gradient).lower(part.theta, part.task).compile()
    return lambda: np.asarray(compiled(part.theta, part.task))


def _name(key: tuple[str, str]) -> str:
    return ": ".join(key)


def _named(programs: Mapping[tuple[str, str], Any]) -> dict[str, Any]:
    return {_name(key): run for key, run in programs.items()}


def _distance(found: np.ndarray, exact: np.ndarray) -> float:
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def _draw(tries: Mapping[str, list[Try]], axes: Any) -> None:
    """Error against time; each estimator's best settings joined."""
    for (name, found), ax in zip(tries.items(), axes.flat, strict=False):
        for colour, mark, estimator in (
            ("C3", "o", OURS),
            ("C0", "s", "unrolled"),
            ("C2", "^", "implicit, CG"),
        ):
            own = sorted((t for t in found if t.estimator == estimator), key=_median)
            lowest = np.minimum.accumulate([t.error for t in own])
            times = [1e3 * _median(t) for t in own]
            ax.loglog(times, [t.error for t in own], mark, ms=4, alpha=0.35, color=colour)
            ax.step(times, lowest, where="post", color=colour, label=estimator)
        plain(ax)
        ax.set_title(name, fontsize=9)
        ax.set_xlabel("ms")
    axes.flat[0].set_ylabel("relative error")
    axes.flat[0].legend(fontsize=7)
