"""Regression of sines with every estimator of the meta-gradient, at equal wall-clock.

    python experiments/estimators.py --seed 0               # all of them
    metacontrast report runs/estimators

One problem (the complex synapse), one learner (that of `sine.py --method cml-gd`); only how the
meta-gradient is obtained differs. Each may use as many meta-steps as fit into the same time on this
machine, without compilation, by speeds that are measured first: a fast rule can make up for a crude
one. The outer rate is chosen for each, in the run itself, on validation tasks, in a quarter of that
time a rate; so all rates take as long again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import frame
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

import metacontrast as mc
from metacontrast.nets import mlp
from metacontrast.tasks import sine
from metacontrast.train import DivergedError, by_first, evaluator, meta_train, write_json

NET = mlp(1, 40, 2, 1, jnp.tanh)
DISPATCH = 10  # meta-steps in one, the least that can be trained
ROUNDS = 2
SPEEDS = Path("runs") / "estimators" / "speeds.json"


@dataclass(frozen=True, kw_only=True)
class Settings(frame.Settings):
    """What a run depends on; how many meta-steps it takes follows from the first."""

    seconds: float = 10.0  # Time of meta-training, and once more to choose its rate.
    speeds: Path = field(default=SPEEDS, compare=False)  # Measured, if it is not there.
    rates: tuple[float, ...] = (3e-3, 1e-2, 3e-2, 1e-1)  # Of theta, to choose from.
    last_rate: float = 0.02  # Of the outer rate, at the end of its cosine.
    tasks: int = 25  # Tasks a meta-step.
    shots: int = 10  # Points to learn a task from.
    queries: int = 10  # Points of its outer loss.
    first_lambda: float = 5.0  # Of every synapse; it is learned.
    rate: float = 1e-3  # Of descent on a task.
    free: int = 100  # Inner steps.
    nudged: int = 50  # Inner steps of a nudged phase, and iterations of what is not a contrast.
    beta: float = 0.05  # The strength of the nudge.
    test_tasks: int = 1000  # On which theta is judged, once.
    test_queries: int = 100  # Points on which a held-out task is judged.
    valid_tasks: int = 200  # Which choose the outer rate.

    def shorten(self) -> Settings:
        """A tenth of the time."""
        return replace(self, seconds=self.seconds / 10)


NAMES = (
    *("contrastive", "contrastive-control", "contrastive-symmetric", "contrastive-holomorphic"),
    *("contrastive-secant-cg", "trajectory"),
    *("unrolled", "unrolled-truncated", "unrolled-remat", "implicit-cg", "implicit-hessian-free"),
    *("implicit-neumann", "implicit-identity", "first-order", "reptile", "evolution"),
)
EXPERIMENT = frame.Experiment(
    "estimators",
    metric="mean squared error on held-out tasks, after equal wall-clock",
    methods={name: Settings(method=name) for name in NAMES},
    default="all",
)


def estimator(s: Settings) -> Any:
    """How the meta-gradient is obtained."""
    contrastive = partial(mc.Contrastive, s.beta, nudged=nesterov(s.rate, s.nudged))
    # The inner Hessian is indefinite for a network that has not converged, hence the damping.
    damping = 10.0
    cg = partial(mc.Implicit, "cg", 10, damping=damping)
    return {
        "contrastive": contrastive(),
        "contrastive-control": contrastive(control=True),
        "contrastive-symmetric": contrastive(scheme="symmetric"),
        "contrastive-holomorphic": contrastive(scheme="holomorphic"),
        "contrastive-secant-cg": mc.Contrastive(
            None, "symmetric", nudge="linear", nudged=mc.secant_cg(10), damping=damping
        ),
        "trajectory": mc.Trajectory(),
        "unrolled": mc.Unrolled(),
        "unrolled-truncated": mc.Unrolled(truncate=max(1, s.free // 10)),
        "unrolled-remat": mc.Unrolled(remat=True),
        "implicit-cg": cg(),
        "implicit-hessian-free": cg(hessian_free=True),
        "implicit-neumann": mc.Implicit("neumann", s.nudged, rate=s.rate),
        "implicit-identity": mc.Implicit("identity"),
        "first-order": mc.FirstOrder(),
        "reptile": mc.Reptile(),
        "evolution": mc.Evolution(sigma=0.02, pairs=10),
    }[s.method]


def nesterov(rate: float, steps: int) -> Any:
    """Gradient descent with momentum, its rate falling to a hundredth on a cosine."""
    falling = optax.cosine_decay_schedule(rate, steps, 0.01)
    return mc.descend(optax.sgd(falling, 0.9, nesterov=True), steps)


def squares(phi: PyTree, data: mc.Data) -> jax.Array:
    """The sum of squared errors."""
    return jnp.sum((jax.vmap(partial(NET.apply, phi))(data.x) - data.y) ** 2)


def problem(s: Settings) -> mc.Problem:
    """The complex synapse; where theta has no strengths, they stay what they were at first."""

    def synapse(theta: mc.Synapse) -> mc.Synapse:
        fixed = mc.Synapse(theta.omega, jnp.log(s.first_lambda))
        return fixed if theta.log_lam is None else theta

    return mc.Problem(
        init=lambda theta, task: theta.omega,
        inner=lambda phi, theta, task: squares(phi, task.train) + synapse(theta).pull(phi),
        outer=lambda phi, theta, task: squares(phi, task.test),
    )


def first_theta(s: Settings) -> mc.Synapse:
    """A random network with equal strengths; without them for rules that cannot learn them."""
    theta = frame.synapses(NET.init, s.seed, s.first_lambda)
    return mc.Synapse(theta.omega, None) if s.method in ("first-order", "reptile") else theta


def run(s: Settings) -> dict[str, Any]:
    """One estimator, one seed: choose a rate, meta-train, test, write result.json."""
    if s.steps:
        raise ValueError("steps: they follow from the time; give --seconds instead.")
    if not s.seconds > 0:
        raise ValueError(f"seconds: must be positive, not {s.seconds}.")
    speed = measure_speeds(s, NAMES)[s.method]
    dispatches = max(1, int(s.seconds * speed / DISPATCH))
    s = replace(s, steps=dispatches * DISPATCH)
    EXPERIMENT.claim(s)
    tasks = partial(frame.stack_tasks, partial(sine, shots=s.shots, queries=s.test_queries))
    error = lambda phi, theta, task: squares(phi, task.test) / len(task.test.x)
    scores = evaluator(problem(s), nesterov(s.rate, s.free), metric=error)
    tests = frame.Tests(lambda part: tasks(part, s.test_tasks))
    losses = validate(s, scores, tasks("valid", s.valid_tasks))
    rate = min(losses, key=lambda rate: losses[rate])
    theta = tests.chosen(theta_or_none(s, s.steps, rate))
    values = np.full(s.test_tasks, np.nan)
    if theta is not None:
        values = scores(theta, tests.open())
    facts: dict[str, Any] = dict(outer_rate=rate, seconds=s.steps / speed)
    facts["validation"] = {str(r): x for r, x in losses.items()}
    return EXPERIMENT.finish(s, values, **facts)


def measure_speeds(s: Settings, names: Iterable[str]) -> dict[str, float]:
    """Meta-steps a second of every estimator, from the file or measured and written there.

    Of the fastest of the dispatches of two rounds, which least else interfered with; the rounds
    are interleaved, so that the ratios are of one state of the machine.
    """
    cost = {name: getattr(s, name) for name in ("tasks", "shots", "queries", "free", "nudged")}
    if not by_first(s.speeds.is_file):
        each = [replace(s, method=name) for name in names]
        times = np.min([[_seconds(one) for one in each] for _ in range(ROUNDS)], axis=0)
        s.speeds.parent.mkdir(parents=True, exist_ok=True)
        write_json(s.speeds, {"of": cost, "speeds": dict(zip(names, 1 / times, strict=True))})
    # Of several processes one is believed, or each would take another number of steps.
    measured: dict[str, Any] = by_first(lambda: json.loads(s.speeds.read_text()))
    if measured["of"] != cost:
        raise ValueError(
            f"speeds: those in {s.speeds} are of other settings, {measured['of']}; name another "
            "file, to be measured."
        )
    return dict(measured["speeds"])


def _seconds(s: Settings) -> float:
    """Of one meta-step: the fastest dispatch of a few, after the first one, which compiles."""
    # At a rate of zero nothing can diverge.
    lines = _meta_train(s, 6 * DISPATCH, 0.0).metrics[1:]
    return min(line["seconds"] for line in lines) / DISPATCH


def validate(s: Settings, scores: Callable[..., Any], tasks: mc.Task) -> dict[float, float]:
    """The loss that each rate leads to; infinite where meta-training, or a task, diverged."""
    losses = {}
    for rate in s.rates:
        theta = theta_or_none(s, max(1, s.steps // DISPATCH // 4) * DISPATCH, rate)
        loss = np.inf if theta is None else float(np.mean(scores(theta, tasks)))
        losses[rate] = loss if np.isfinite(loss) else np.inf
    return losses


def theta_or_none(s: Settings, steps: int, rate: float) -> mc.Synapse | None:
    """theta after so many meta-steps, or None if they diverged."""
    try:
        theta: mc.Synapse = _meta_train(s, steps, rate).theta
        return theta
    except DivergedError as error:
        print(f"{s.method}, outer rate {rate}: {error}")
        return None


def _outer(peak: Any, steps: Any, last: Any) -> Any:
    """As `frame.outer_optimizer`."""
    cosine = lambda t: jnp.cos(jnp.minimum(t / steps, 1.0) * jnp.pi)
    rate = lambda t: peak * (last + (1 - last) * (1 + cosine(t)) / 2)
    return optax.chain(optax.clip_by_global_norm(10.0), optax.adam(rate))


# With its numbers in its state, so that all runs are one program, which is compiled once.
_optimizer = optax.inject_hyperparams(_outer, static_args="last")


def _meta_train(s: Settings, steps: int, rate: float) -> Any:
    return meta_train(
        problem(s),
        nesterov(s.rate, s.free),
        estimator(s),
        partial(sine, shots=s.shots, queries=s.queries),
        first_theta(s),
        _optimizer(peak=rate, steps=float(steps), last=s.last_rate),
        steps=steps,
        tasks=s.tasks,
        seed=s.seed,
        log_every=DISPATCH,
        steps_per_dispatch=DISPATCH,
        progress=False,
        # A crude rule is run as it is, and its flags are counted: how it does is the question.
        on_flag="warn",
        on_collapse="ignore",
        diagnose=False,
    )


if __name__ == "__main__":
    EXPERIMENT.main(run)
