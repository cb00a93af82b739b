"""Sines meta-learned by networks that find their own gradients in other ways than backpropagation.

    metacontrast run credit --method backprop --seed 0
    metacontrast run credit --method all --seed 0
    metacontrast table credit

The learner is that of `sine --method cml-gd`, with its settings, fewer meta-steps and fewer tasks;
only how the inner gradient is found changes. Beside the error stands the cosine between the
meta-gradient of the contrast and the exact one: the derivative, by backpropagation through
training, of what this learner's own training, by its own rule, ends with.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import typer

import metacontrast as mc
from metacontrast import credit

from ..report import figure
from ..tasks import sine as draw
from ..train import evaluator, meta_train, summarise, write_result
from . import sine
from ._common import (
    TEST_SEED,
    VALID_SEED,
    Quick,
    Resume,
    Steps,
    folder,
    outer_optimizer,
    shortened,
    unfinished,
)
from ._credit_figure import draw_panels

NAME = "credit"
METRIC = "mean squared error on 1,000 held-out tasks"
FEEDBACK = 2**31 + 1  # folded into the seed's key, away from its meta-steps and first network


@dataclass(frozen=True)
class Settings:
    """What a run depends on besides its method and seed."""

    steps: int = 300
    tasks: int = 10
    queries: int = 10
    outer_rate: float = 4e-2
    first_lambda: float = 5.0
    beta: float = 0.05
    free: int = 100
    nudged: int = 50
    cosines: int = 50  # tasks on which the meta-gradient is compared with the exact one
    # Of the rules:
    gamma: float = 0.05  # equilibrium propagation: feedback
    inner_beta: float = 0.5
    sweeps: int = 4
    nudge: float = 0.01  # predictive coding
    scale: float = 1e-2  # node perturbation
    samples: int = 4


METHODS = (
    "backprop",
    "equilibrium-propagation",
    "predictive-coding",
    "node-perturbation",
    "feedback-alignment",
    "direct-feedback-alignment",
)
REFERENCE = dict.fromkeys(METHODS, "")


def _squares(apply: Any, phi: Any, data: mc.Data) -> jax.Array:
    return jnp.sum((jax.vmap(partial(apply, phi))(data.x) - data.y) ** 2)


def problem(apply: Any) -> mc.Problem:
    """The complex synapse, as a function of its network."""
    return mc.Problem(
        init=lambda theta, task: theta[0],
        inner=lambda phi, theta, task: (
            _squares(apply, phi, task.train) + mc.attraction(phi, *theta)
        ),
        outer=lambda phi, theta, task: _squares(apply, phi, task.test),
    )


def network(name: str, s: Settings) -> Any:
    """What the method's network computes: with equilibrium propagation, it has feedback."""
    equilibrium = name == "equilibrium-propagation"
    return credit.equilibrium(s.gamma, s.sweeps) if equilibrium else sine.NET.apply


def rule(name: str, s: Settings, seed: int) -> Any:
    """How the method's network answers an error; random feedback is drawn once a seed."""
    key = jax.random.fold_in(jax.random.key(seed), FEEDBACK)
    shapes = jax.eval_shape(sine.NET.init, key)
    rules: dict[str, Any] = {
        "equilibrium-propagation": partial(
            credit.equilibrium_propagation, s.inner_beta, s.gamma, s.sweeps
        ),
        "predictive-coding": partial(credit.predictive_coding, s.nudge),
        "node-perturbation": partial(credit.node_perturbation, s.scale, s.samples),
        "feedback-alignment": lambda: credit.feedback_alignment(
            credit.random_feedback(key, shapes)
        ),
        "direct-feedback-alignment": lambda: credit.direct_feedback_alignment(
            credit.random_feedback(key, shapes, direct=True)
        ),
    }
    return rules[name]()


def parts(name: str, s: Settings, seed: int) -> tuple[mc.Problem, Any, Any]:
    """What is learned, how, and how the meta-gradient is found."""
    phases: list[Any] = [sine.nesterov(s.free), sine.nesterov(s.nudged)]
    if name != "backprop":
        answer = rule(name, s, seed)
        phases = [credit.by(phase, problem, answer) for phase in phases]
    free, nudged = phases
    return problem(network(name, s)), free, mc.Contrastive(s.beta, "symmetric", nudged=nudged)


def main(
    method: Annotated[
        str, typer.Option(help=f"One of {', '.join(METHODS)}; or all, for the figure.")
    ] = "equilibrium-propagation",
    seed: Annotated[int, typer.Option(help="Draws network, feedback and training tasks.")] = 0,
    steps: Steps = None,
    out: Annotated[
        Path | None, typer.Option(help="Default: runs/credit/METHOD/seedSEED; all: runs/credit.")
    ] = None,
    resume: Resume = False,
    quick: Quick = False,
) -> None:
    """Meta-learn sines by another inner credit assignment than backpropagation."""
    if method != "all":
        _say(run(method, seed, steps, out, resume, quick))
        return
    root = out or Path("runs") / NAME
    for name, at in unfinished(root, METHODS, seed, resume):
        _say(run(name, seed, steps, at, resume, quick))
    print(
        f"Figure: {figure(root / 'credit', partial(draw_panels, root, METHODS), 1, 3, (3.4, 3.4))}"
    )


def _say(result: dict[str, Any]) -> None:
    first, last = result["cosine_first"], result["cosine_last"]
    print(
        f"{result['method']}, seed {result['seeds'][0]}: {result['value']:.4f} +- "
        f"{result['ci95']:.4f} ({METRIC}); cosine {first:.3f}, then {last:.3f}",
        flush=True,
    )


def run(
    name: str,
    seed: int = 0,
    steps: int | None = None,
    out: Path | None = None,
    resume: bool = False,
    quick: bool = False,
    settings: Settings | None = None,
) -> dict[str, Any]:
    """One method, one seed: meta-train, compare gradients, test, write result.json into `out`."""
    out = folder(NAME, METHODS, name, seed, out)
    s = shortened(settings or Settings(), steps, quick)
    trained = _meta_trained(name, s, seed, out, resume)
    first = sine.first_theta(seed, s.first_lambda)
    values = scorer(name, s, seed)(trained.theta, sine.held_out(TEST_SEED, sine.TEST_TASKS))
    result = summarise(
        values,
        experiment=NAME,
        method=name,
        metric=METRIC,
        seeds=[seed],
        meta_steps=s.steps,
        seconds=trained.seconds,
        reference=REFERENCE[name],
        **cosines(name, s, seed, {"first": first, "last": trained.theta}),
    )
    write_result(out, result)
    return result


def scorer(name: str, s: Settings, seed: int) -> Any:
    """`(theta, tasks) -> mean squared error of each`, learned by the method's own free phase."""
    learned, solve, _ = parts(name, s, seed)
    return evaluator(
        learned,
        solve,
        metric=lambda phi, theta, task: (
            _squares(network(name, s), phi, task.test) / len(task.test.x)
        ),
    )


def cosines(name: str, s: Settings, seed: int, thetas: dict[str, Any]) -> dict[str, float]:
    """Of contrast and exact meta-gradient, at each theta, on tasks of the validation stream.

    `cosine_...` is the mean over tasks of each task's cosine; `cosine_mean_...` the cosine of the
    two means over tasks, which is what a meta-step follows.
    """
    learned, solve, estimator = parts(name, s, seed)
    tasks = sine.held_out(VALID_SEED, s.cosines, s.queries)
    keys = jax.random.split(jax.random.key(seed), s.cosines)

    @jax.jit
    def gradients(theta: Any) -> list[Any]:
        by = lambda e: lambda x: e.value_and_grad(learned, solve, theta, *x)[1]
        return [
            jax.lax.map(by(e), (tasks, keys), batch_size=10) for e in (estimator, mc.Unrolled())
        ]

    found = {}
    for when, theta in thetas.items():
        pair = [
            np.concatenate([leaf.reshape(s.cosines, -1) for leaf in jax.tree.leaves(g)], 1)
            for g in gradients(theta)
        ]
        pair = [g[np.all([np.isfinite(g).all(1) for g in pair], axis=0)] for g in pair]
        found[f"cosine_{when}"] = float(np.mean(_cosine(*pair)))
        found[f"cosine_mean_{when}"] = float(_cosine(*(g.mean(0) for g in pair)))
    return found


def _cosine(a: Any, b: Any) -> Any:
    return np.sum(a * b, -1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))


def _meta_trained(name: str, s: Settings, seed: int, out: Path, resume: bool) -> Any:
    learned, solve, estimator = parts(name, s, seed)
    scores = scorer(name, s, seed)
    valid_tasks = sine.held_out(VALID_SEED, sine.VALID_TASKS)
    return meta_train(
        learned,
        solve,
        estimator,
        partial(draw, shots=sine.SHOTS, queries=s.queries),
        sine.first_theta(seed, s.first_lambda),
        outer_optimizer(s.outer_rate, s.steps, 0.02),
        steps=s.steps,
        tasks=s.tasks,
        seed=seed,
        out=out,
        resume=resume,
        # The outer rate's schedule depends on the number of steps: no other number resumes it.
        config={"experiment": NAME, "method": name, "schedule": s.steps} | asdict(s),
        every=max(10, s.steps // 100 * 10),
        valid=lambda theta: {"loss": float(np.mean(scores(theta, valid_tasks)))},
    )
