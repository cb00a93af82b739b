"""Part `accuracy`: the time that each estimator needs for a gradient of a given accuracy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

import metacontrast as mc
from metacontrast.report import look

from ._growth_figure import label_powers
from ._measure import Measurement, Program, ratios, summarise, time_in_turns
from ._result import PartResult, Plot, Progress
from ._smooth_problems import SmoothProblem, digits, network

OURS = "contrastive"
ESTIMATORS = (OURS, "unrolled", "implicit, CG")
TARGETS = (1e-1, 1e-2, 1e-3, 1e-4)
STEPS = (15, 30, 60, 120)
BETA = 1e-2
PROBLEMS: dict[str, Callable[[], SmoothProblem]] = {"digits": digits, "network": network}
Setting = tuple[str, str]  # an estimator, and how it and the learner are set


class Trial(NamedTuple):
    """One setting of an estimator: the error of its meta-gradient, and seconds in each round."""

    estimator: str
    setting: str
    error: float
    seconds: np.ndarray


def accuracy(quick: bool, progress: Progress) -> PartResult:
    """Symmetric contrast, implicit differentiation by CG and backpropagation through training.

    On the theory's smooth problems, in float64, against the exact meta-gradient. Each is given
    several learners and numbers of steps; counted is the fastest setting that reaches an accuracy.
    """
    notes, tables, trials = {}, {}, {}
    with jax.enable_x64(True):
        for name, make in PROBLEMS.items():
            if quick and name == "digits":
                continue
            try:
                smooth = make()
            except ImportError as error:
                notes[name] = str(error)
                continue
            trials[name] = run_trials(smooth, STEPS[:2] if quick else STEPS, progress, quick)
            tables[f"Time to an accuracy, {name}"] = fastest_by_target(trials[name])
    points = [_point(name, trial) for name, several in trials.items() for trial in several]
    return PartResult(tables, notes, Plot(partial(draw, points), 1, max(1, len(trials))), points)


def _point(problem: str, trial: Trial) -> dict[str, Any]:
    return {
        "problem": problem, "estimator": trial.estimator, "setting": trial.setting,
        "error": trial.error, "ms": 1e3 * _median(trial),
    }  # fmt: skip


def fastest_by_target(trials: Iterable[Trial]) -> list[Measurement]:
    """For each accuracy the fastest setting of each estimator that reaches it, and its ratio."""
    trials, rows = list(trials), []
    for target in TARGETS:
        fastest: dict[str, Trial] = {}
        for trial in trials:
            best = fastest.get(trial.estimator)
            if trial.error <= target and (best is None or _median(trial) < _median(best)):
                fastest[trial.estimator] = trial
        seconds = {name: trial.seconds for name, trial in fastest.items()}
        for name in fastest:
            rows.append(summarise(name, f"ms to {target:.0e}", 1e3 * seconds[name]))
            if OURS in fastest and name != OURS:
                over = ratios(seconds, name, OURS)
                rows.append(summarise(name, f"over ours, {target:.0e}", over))
    return rows


def _median(trial: Trial) -> float:
    return float(np.median(trial.seconds))


def settings(rate: float, n: int) -> dict[Setting, tuple[mc.Solver, mc.Estimator]]:
    """Solvers and estimators, for free phases of the order of `n` steps."""
    descent = lambda steps: mc.descend(optax.sgd(rate, 0.9), steps)
    lbfgs = lambda steps: mc.lbfgs(1e-13, steps)
    anderson = lambda steps: mc.anderson(rate, 1e-13, steps)
    cg = mc.Implicit("cg", n // 3)
    nudged = lambda solver: mc.Contrastive(BETA, "symmetric", nudged=solver)
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


def run_trials(
    smooth: SmoothProblem, steps: Iterable[int], progress: Progress, quick: bool
) -> list[Trial]:
    """Every setting at each number of steps: its error, and its time in turns with all others."""
    exact = exact_gradient(smooth)
    programs: dict[Setting, Program] = {}
    for n in steps:
        progress(f"about {n} steps: compiles")
        pairs = settings(smooth.rate, n)
        programs |= {key: gradient_of(smooth, *pair) for key, pair in pairs.items()}
    errors = {key: _distance(program(), exact) for key, program in programs.items()}
    progress("all, in turns")
    by_name = {": ".join(key): program for key, program in programs.items()}
    seconds = time_in_turns(by_name, 3 if quick else 9, 0.01, max_total=5 if quick else 30)
    return [Trial(*key, errors[key], seconds[": ".join(key)]) for key in programs]


def exact_gradient(smooth: SmoothProblem) -> np.ndarray:
    """By the implicit function theorem at the minimum, which Newton's method comes to."""
    converged = mc.newton_cg(1e-13, 100, 400)
    gradient: np.ndarray = gradient_of(smooth, converged, mc.Implicit("exact"))()
    return gradient


def gradient_of(smooth: SmoothProblem, solver: mc.Solver, estimator: mc.Estimator) -> Program:
    """A meta-gradient as one vector, compiled."""
    meta_gradient = mc.meta_gradient(smooth.problem, solver, estimator, by_z=False)
    gradient = jax.jit(lambda *args: ravel_pytree(meta_gradient(*args).by_theta)[0])
    compiled = gradient.lower(smooth.theta, smooth.task).compile()
    return lambda: np.asarray(compiled(smooth.theta, smooth.task))


def _distance(gradient: np.ndarray, exact: np.ndarray) -> float:
    return float(np.linalg.norm(gradient - exact) / np.linalg.norm(exact))


def draw(points: Sequence[Mapping[str, Any]], axes: Any) -> None:
    """Error against time; each estimator's best settings joined."""
    problems = dict.fromkeys(point["problem"] for point in points)
    for name, ax in zip(problems, axes.flat, strict=False):
        for estimator in ESTIMATORS:
            colour, mark = look(estimator)
            own = [p for p in points if (p["problem"], p["estimator"]) == (name, estimator)]
            own.sort(key=lambda point: point["ms"])
            times, errors = [p["ms"] for p in own], [p["error"] for p in own]
            ax.loglog(times, errors, mark, ms=4, alpha=0.35, color=colour)
            lowest = np.minimum.accumulate(errors)
            ax.step(times, lowest, where="post", color=colour, label=estimator)
        label_powers(ax)
        ax.set_title(name)
        ax.set_xlabel("ms")
    axes.flat[0].set_ylabel("relative error")
    axes.flat[0].legend()
