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

from collections.abc import Callable, Sequence
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
from metacontrast.report import figure
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
    tasks = frame.stack_tasks(sample_task, frame.VALID_SEED, s.cosines)
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
    valid_tasks = tasks(frame.VALID_SEED, s.valid_tasks)
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
    values = scores(trained.theta, tasks(frame.TEST_SEED, s.test_tasks))
    agreement = cosines(s, {"first": first_theta(s), "last": trained.theta})
    note = f"; cosine {agreement['cosine_first']:.3f}, then {agreement['cosine_last']:.3f}"
    return EXPERIMENT.finish(s, values, note=note, **frame.facts(trained, s.tasks), **agreement)


def overview(root: Path) -> None:
    """The figure of all methods."""
    path = figure(root / "credit", partial(draw, root), 1, 3, (3.4, 3.4))
    print(f"Figure: {path}")


def draw(root: Path, axes: Any) -> None:
    """Of the seeds below `root`: a bar is their mean, a dot is one of them."""
    error, cosine, curves = axes.flat
    for i, (name, short) in enumerate(SHORT_NAMES.items()):
        folders = sorted(path.parent for path in (root / name).glob("seed*/result.json"))
        if not folders:
            continue
        results = [read_result(folder) for folder in folders]
        _bar(error, i, 0.7, [r["value"] or np.nan for r in results], f"C{i}")
        _bar(cosine, i - 0.2, 0.35, [r["cosine_first"] for r in results], "0.75")
        _bar(cosine, i + 0.2, 0.35, [r["cosine_last"] for r in results], f"C{i}")
        steps, losses = _mean_curve(folders)
        curves.plot(steps, losses, color=f"C{i}", label=short.replace("\n", " "))
    for ax in (error, cosine):
        ax.set_xticks(range(len(SHORT_NAMES)), list(SHORT_NAMES.values()), fontsize=7)
        ax.tick_params(axis="x", rotation=90)
    error.set(yscale="log", ylabel="squared error, test tasks")
    cosine.set_ylabel("cosine")
    title = "with the exact meta-gradient,\nbefore (grey) and after meta-training"
    cosine.set_title(title, fontsize=8)
    curves.set(yscale="log", xlabel="meta-step", ylabel="squared error, validation")
    curves.legend(fontsize=6, loc="center right")


def _bar(ax: Any, x: float, width: float, values: Sequence[float], color: str) -> None:
    ax.bar(x, np.mean(values), width, color=color, alpha=0.6)
    ax.plot(np.full(len(values), x), values, "k.", ms=4)


def _mean_curve(folders: Sequence[Path]) -> np.ndarray:
    """Steps and mean validation losses, as far as every run has come."""
    curves = [[(x["step"], x["valid_loss"]) for x in read_metrics(folder)] for folder in folders]
    shortest = min(map(len, curves))
    return np.mean([curve[:shortest] for curve in curves], axis=0).T


if __name__ == "__main__":
    EXPERIMENT.main(run, overview)
