"""Sines meta-learned by networks that find their own gradients in other ways than backpropagation.

    python experiments/credit.py --method predictive-coding --seed 0
    python experiments/credit.py --method all --seed 0      # every method, and one figure of all
    metacontrast report runs/credit

The learner is that of `sine.py --method cml-gd`, with its settings, fewer meta-steps and fewer
tasks; only how the inner gradient is found changes. Beside the error stands the cosine between the
meta-gradient of the contrast and the exact one: the derivative, by backpropagation through
training, of what this learner's own training, by its own rule, ends with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
from metacontrast import credit
from metacontrast.nets import mlp
from metacontrast.report import figure, look
from metacontrast.tasks import sine
from metacontrast.train import evaluator, read_metrics, read_result, validation

NET = mlp(1, 40, 2, 1, jnp.tanh)
FEEDBACK = 2**31 + 1  # folded into the seed's key, away from its meta-steps and first network
Apply = Callable[[PyTree, jax.Array], jax.Array]


@dataclass(frozen=True, kw_only=True)
class Settings(frame.Settings):
    """What a run depends on."""

    steps: int = 300  # Meta-steps.
    tasks: int = 10  # Tasks a meta-step.
    shots: int = 10  # Points to learn a task from.
    queries: int = 10  # Points of its outer loss.
    outer_rate: float = 4e-2  # Of theta.
    first_lambda: float = 5.0  # Of every synapse; it is learned.
    rate: float = 1e-3  # Of descent on a task.
    free: int = 100  # Inner steps.
    nudged: int = 50  # Inner steps of a nudged phase.
    beta: float = 0.05  # The strength of the nudge.
    gamma: float = 0.05  # Equilibrium propagation: the strength of its feedback.
    inner_beta: float = 0.5  # Equilibrium propagation: the strength of its own nudge.
    sweeps: int = 4  # Equilibrium propagation: over all layers, until they are at rest.
    nudge: float = 0.01  # Predictive coding: of the output.
    scale: float = 1e-2  # Node perturbation: of the noise.
    samples: int = 4  # Node perturbation: of the noise, a step.
    cosines: int = 50  # Tasks on which the meta-gradient is compared with the exact one.
    test_tasks: int = 1000  # On which theta is judged, once.
    test_queries: int = 100  # Points on which a held-out task is judged.
    valid_tasks: int = 200  # Which say on the way how theta does.


SHORT_NAMES = {
    "backprop": "backprop",
    "equilibrium-propagation": "equilibrium\npropagation",
    "predictive-coding": "predictive\ncoding",
    "node-perturbation": "node\nperturbation",
    "feedback-alignment": "feedback\nalignment",
    "direct-feedback-alignment": "direct feedback\nalignment",
}
EXPERIMENT = frame.Experiment(
    "credit",
    metric="mean squared error on held-out tasks",
    methods={name: Settings(method=name) for name in SHORT_NAMES},
    default="equilibrium-propagation",
)


def squares(apply: Apply, phi: PyTree, data: mc.Data) -> jax.Array:
    """The sum of squared errors."""
    return jnp.sum((jax.vmap(partial(apply, phi))(data.x) - data.y) ** 2)


def problem(apply: Apply) -> mc.Problem:
    """The complex synapse, as a function of its network."""
    return mc.Problem(
        init=lambda theta, task: theta.omega,
        inner=lambda phi, theta, task: squares(apply, phi, task.train) + theta.pull(phi),
        outer=lambda phi, theta, task: squares(apply, phi, task.test),
    )


def network(s: Settings) -> Apply:
    """What the method's network computes: with equilibrium propagation, it has feedback."""
    equilibrium = s.method == "equilibrium-propagation"
    return credit.equilibrium(s.gamma, s.sweeps) if equilibrium else NET.apply


def credit_rule(s: Settings) -> Any:
    """How the method's network answers an error; random feedback is drawn once a seed."""
    key = jax.random.fold_in(jax.random.key(s.seed), FEEDBACK)
    feedback = partial(credit.random_feedback, key, jax.eval_shape(NET.init, key))
    match s.method:
        case "equilibrium-propagation":
            return credit.equilibrium_propagation(s.inner_beta, s.gamma, s.sweeps)
        case "predictive-coding":
            return credit.predictive_coding(s.nudge)
        case "node-perturbation":
            return credit.node_perturbation(s.scale, s.samples)
        case "feedback-alignment":
            return credit.feedback_alignment(feedback())
    return credit.direct_feedback_alignment(feedback(direct=True))


def nesterov(rate: float, steps: int) -> Any:
    """Gradient descent with momentum, its rate falling to a hundredth on a cosine."""
    falling = optax.cosine_decay_schedule(rate, steps, 0.01)
    return mc.descend(optax.sgd(falling, 0.9, nesterov=True), steps)


def learner(s: Settings) -> tuple[mc.Problem, Any, Any]:
    """What is learned, how, and how the meta-gradient is obtained."""
    phases: list[Any] = [nesterov(s.rate, s.free), nesterov(s.rate, s.nudged)]
    if s.method != "backprop":
        rule = credit_rule(s)
        phases = [credit.with_credit_rule(phase, problem, rule) for phase in phases]
    free, nudged = phases
    return problem(network(s)), free, mc.Contrastive(s.beta, "symmetric", nudged=nudged)


def scorer(s: Settings) -> Callable[..., np.ndarray]:
    """`(theta, tasks) -> mean squared error of each`, learned by the method's own free phase."""
    learned, solver, _ = learner(s)
    error = lambda phi, theta, task: squares(network(s), phi, task.test) / len(task.test.x)
    return evaluator(learned, solver, metric=error)


def first_theta(s: Settings) -> mc.Synapse:
    """A random network, and equal strengths."""
    return frame.synapses(NET.init, s.seed, s.first_lambda)


def cosines(s: Settings, thetas: dict[str, mc.Synapse]) -> dict[str, Any]:
    """Of contrast and exact meta-gradient, at each theta, on tasks of the validation stream.

    `cosine_...` is the mean over tasks of each task's cosine; `cosine_mean_...` the cosine of the
    two means over tasks, which is what a meta-step follows.
    """
    learned, solver, contrast = learner(s)
    sample_task = partial(sine, shots=s.shots, queries=s.queries)
    tasks = frame.stack_tasks(sample_task, "valid", s.cosines)
    keys = jax.random.split(jax.random.key(s.seed), s.cosines)

    @jax.jit
    def gradients(theta: mc.Synapse) -> list[PyTree]:
        gradient = lambda rule: mc.meta_gradient(learned, solver, rule, by_z=False)
        each = lambda rule: lambda x: gradient(rule)(theta, *x).by_theta
        rules = contrast, mc.Unrolled()
        return [jax.lax.map(each(rule), (tasks, keys), batch_size=10) for rule in rules]

    values = {}
    for when, theta in thetas.items():
        pair = [
            np.concatenate([leaf.reshape(s.cosines, -1) for leaf in jax.tree.leaves(grad)], 1)
            for grad in gradients(theta)
        ]
        finite = np.all([np.isfinite(grad).all(1) for grad in pair], axis=0)
        pair = [grad[finite] for grad in pair]
        values[f"cosine_{when}"] = float(np.mean(_cosine(*pair)))
        values[f"cosine_mean_{when}"] = float(_cosine(*(grad.mean(0) for grad in pair)))
    return values


def _cosine(a: np.ndarray, b: np.ndarray) -> Any:
    return np.sum(a * b, -1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))


def run(s: Settings) -> dict[str, Any]:
    """One method, one seed: meta-train, compare gradients, test, write result.json."""
    scores = scorer(s)
    tasks = partial(frame.stack_tasks, partial(sine, shots=s.shots, queries=s.test_queries))
    valid_tasks = tasks("valid", s.valid_tasks)
    tests = frame.Tests(lambda part: tasks(part, s.test_tasks))
    trained = EXPERIMENT.meta_train(
        s,
        *learner(s),
        partial(sine, shots=s.shots, queries=s.queries),
        first_theta(s),
        frame.outer_optimizer(s.outer_rate, s.steps),
        tasks=s.tasks,
        log_every=max(10, s.steps // 100 * 10),
        validate=lambda theta: validation(scores(theta, valid_tasks)),
    )
    theta = tests.chosen(trained.theta)
    values = scores(theta, tests.open())
    agreement = cosines(s, {"first": first_theta(s), "last": theta})
    note = f"; cosine {agreement['cosine_first']:.3f}, then {agreement['cosine_last']:.3f}"
    return EXPERIMENT.finish(s, values, note=note, **frame.facts(trained, s.tasks), **agreement)


def overview(root: Path) -> None:
    """The figure of all methods."""
    path = figure(root / "credit", partial(draw, rows_of(root)), 1, 3, SIZE)
    print(f"Figure: {path}")


SIZE = (3.4, 3.2)
KEPT = ("method", "seeds", "value", "ci95", "cosine_first", "cosine_last")


def rows_of(root: Path) -> list[dict[str, Any]]:
    """What figure and table show of each run below a folder, in the order of the methods."""
    rows = []
    for name in SHORT_NAMES:
        for folder in sorted(path.parent for path in (root / name).glob("seed*/result.json")):
            result = read_result(folder)
            curve = [[line["step"], line["valid_loss"]] for line in read_metrics(folder)]
            rows.append({x: result[x] for x in KEPT} | {"curve": curve})
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The error of each run, and the mean cosines of each method."""
    lines = [f"{'method':27}{'error of each seed':27}{'cosine, first':>14}{'trained':>9}"]
    for name in SHORT_NAMES:
        own = [row for row in rows if row["method"] == name]
        if not own:
            continue
        errors = ", ".join(f"{row['value']:.4f}" for row in own)
        first, last = (np.mean([row[f"cosine_{x}"] for row in own]) for x in ("first", "last"))
        lines.append(f"{name:27}{errors:27}{first:14.2f}{last:9.3f}")
    return "\n".join(lines)


def draw(rows: Sequence[Mapping[str, Any]], axes: Any) -> None:
    """A bar is the mean over seeds, a dot is one of them."""
    error, cosine, curves = axes.flat
    for i, name in enumerate(SHORT_NAMES):
        own, color = [row for row in rows if row["method"] == name], look(name).color
        if not own:
            continue
        _bar(error, i, 0.7, [row["value"] or np.nan for row in own], color)
        _bar(cosine, i - 0.2, 0.35, [row["cosine_first"] for row in own], "0.75")
        _bar(cosine, i + 0.2, 0.35, [row["cosine_last"] for row in own], color)
        shortest = min(len(row["curve"]) for row in own)
        curve = np.mean([row["curve"][:shortest] for row in own], axis=0)
        label = f"{name.replace('-', ' ')}, {len(own)} seed{'s' if len(own) > 1 else ''}"
        curves.plot(*curve.T, **look(name).line(label=label))
    error.set_yticks(range(len(SHORT_NAMES)), list(SHORT_NAMES.values()))
    cosine.set_yticks([])
    for ax in (error, cosine):
        ax.invert_yaxis()
    error.set(xscale="log", xlabel="squared error, test tasks")
    error.set_xticks(ticks := [0.05, 0.1, 0.2, 0.5, 1.0], [f"{x:g}" for x in ticks])
    error.xaxis.set_minor_formatter(lambda *_: "")
    cosine.set(xlabel="cosine with the exact gradient,\nat first (grey) and meta-trained")
    curves.set(yscale="log", xlabel="meta-step", ylabel="squared error, validation")
    handles, labels = curves.get_legend_handles_labels()
    curves.figure.legend(handles, labels, loc="outside lower center", ncols=3)


def _bar(ax: Any, y: float, width: float, values: Sequence[float], color: str) -> None:
    ax.barh(y, np.mean(values), width, color=color, alpha=0.6)
    ax.plot(values, np.full(len(values), y), "k.", ms=4)


if __name__ == "__main__":
    EXPERIMENT.main(run, overview)
