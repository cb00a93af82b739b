"""Sines meta-learned by networks that find their own gradients in other ways than backpropagation.

    python experiments/credit.py --method predictive-coding --seed 0
    python experiments/credit.py --method all --seed 0      # every method, and one figure of all
    metacontrast report runs/credit

The learner is that of `sine.py --method cml-gd`, with its settings, fewer meta-steps and fewer
tasks; only how the inner gradient is found changes. Beside the error stand two cosines: between the
rule's gradient of a task and that of backpropagation; and between the meta-gradient of the contrast
and the exact one, the derivative, by backpropagation through training, of what this learner's own
training, by its own rule, ends with.

The rules that become backpropagation where they nudge weakly are there twice: `...-far` nudges
strongly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import frame
import jax
import jax.numpy as jnp
import numpy as np
import optax
from _credit_figures import SHORT_NAMES, SIZE, draw
from jaxtyping import PyTree

import metacontrast as mc
from metacontrast import credit
from metacontrast._directional import cosine
from metacontrast.nets import mlp
from metacontrast.report import figure
from metacontrast.tasks import sine
from metacontrast.train import evaluator, validation

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
    sweeps: int = 4  # Over all layers, until they are at rest.
    nudge: float = 0.01  # Predictive coding: of the output.
    scale: float = 1e-2  # Node perturbation: of the noise.
    samples: int = 4  # Node perturbation: of the noise, a step.
    cosines: int = 50  # Tasks on which the meta-gradient is compared with the exact one.
    test_tasks: int = 1000  # On which theta is judged, once.
    test_queries: int = 100  # Points on which a held-out task is judged.
    valid_tasks: int = 200  # Which say on the way how theta does.


# Strong nudges ask for more sweeps: after these the first network is at rest. And nudged by whole
# errors predictive coding runs away at the rate of the others: large errors move activities, which
# make gradients larger than the error. At this rate none of 200 validation tasks did.
OWN: dict[str, dict[str, Any]] = {
    "predictive-coding": dict(sweeps=3),
    "predictive-coding-far": dict(nudge=1.0, sweeps=10, rate=5e-5),
    "equilibrium-propagation-far": dict(gamma=1.0, inner_beta=1.0, sweeps=10),
}
EXPERIMENT = frame.Experiment(
    "credit",
    metric="mean squared error on held-out tasks",
    methods={name: Settings(method=name, **OWN.get(name, {})) for name in SHORT_NAMES},
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
    equilibrium = rule_name(s) == "equilibrium-propagation"
    return credit.equilibrium(s.gamma, s.sweeps) if equilibrium else NET.apply


def rule_name(s: Settings) -> str:
    """The rule, however strongly it nudges."""
    return s.method.removesuffix("-far")


def credit_rule(s: Settings) -> Any:
    """How the method's network answers an error; random feedback is drawn once a seed."""
    key = jax.random.fold_in(jax.random.key(s.seed), FEEDBACK)
    feedback = partial(credit.random_feedback, key, jax.eval_shape(NET.init, key))
    match rule_name(s):
        case "backprop":
            return lambda phi, x, key: NET.apply(phi, x)
        case "equilibrium-propagation":
            return credit.equilibrium_propagation(s.inner_beta, s.gamma, s.sweeps)
        case "predictive-coding":
            return credit.predictive_coding(s.nudge, s.sweeps)
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


Gradients = Callable[[mc.Synapse, mc.Task, jax.Array], PyTree]


def inner_gradients(s: Settings) -> dict[str, Gradients]:
    """Where a task's learning starts: the rule's, and those of the two networks it may answer for.

    `own` is exact for the network that the method learns with, `backprop` for the feedforward one
    of the same weights. They differ with equilibrium propagation alone, whose network has feedback.
    """
    rule = credit_rule(s)

    def gradient(apply: Callable[..., jax.Array], keyed: bool = False) -> Gradients:
        def at_start(theta: mc.Synapse, task: mc.Task, key: jax.Array) -> PyTree:
            net = partial(apply, key=key) if keyed else apply
            return jax.grad(problem(net).inner)(theta.omega, theta, task)

        return at_start

    own, backprop = gradient(network(s)), gradient(NET.apply)
    return {"rule": gradient(rule, keyed=True), "own": own, "backprop": backprop}


def meta_gradients(s: Settings) -> dict[str, Gradients]:
    """The contrast's, and the exact one of the same learner."""
    learned, solver, contrast = learner(s)

    def gradient(estimator: Any) -> Gradients:
        each = mc.meta_gradient(learned, solver, estimator, by_z=False)
        return lambda theta, task, key: each(theta, task, key).by_theta

    return {"contrast": gradient(contrast), "exact": gradient(mc.Unrolled())}


def cosines(s: Settings, thetas: dict[str, mc.Synapse]) -> dict[str, Any]:
    """At each theta, on tasks of the validation stream.

    `cosine_...` is that of the two meta-gradients, the mean over tasks of each task's cosine;
    `cosine_mean_...` the cosine of their means over tasks, which is what a meta-step follows;
    `cosine_own_...` and `cosine_backprop_...` are of the rule's own gradient of a task, against
    those of `inner_gradients`.
    """
    sample_task = partial(sine, shots=s.shots, queries=s.queries)
    tasks = frame.stack_tasks(sample_task, "valid", s.cosines)
    keys = jax.random.split(jax.random.key(s.seed), s.cosines)
    several = inner_gradients(s) | meta_gradients(s)

    @jax.jit
    def gradients(theta: mc.Synapse) -> dict[str, PyTree]:
        each = lambda g: jax.lax.map(lambda x: g(theta, *x), (tasks, keys), batch_size=10)
        return {name: each(g) for name, g in several.items()}

    values = {}
    for when, theta in thetas.items():
        rows = {name: _rows(grad, s.cosines) for name, grad in gradients(theta).items()}
        pair = _finite(rows["contrast"], rows["exact"])
        values[f"cosine_{when}"] = _mean_cosine(*pair)
        values[f"cosine_mean_{when}"] = cosine(*(grad.mean(0) for grad in pair))
        for name in ("own", "backprop"):
            pair = _finite(rows["rule"], rows[name])
            values[f"cosine_{name}_{when}"] = _mean_cosine(*pair)
    return values


def _rows(grad: PyTree, n: int) -> np.ndarray:
    """Of each task, in float64."""
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(grad)]
    return np.concatenate([leaf.reshape(n, -1) for leaf in leaves], 1)


def _finite(*several: np.ndarray) -> list[np.ndarray]:
    finite = np.all([np.isfinite(rows).all(1) for rows in several], axis=0)
    return [rows[finite] for rows in several]


def _mean_cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.mean([cosine(x, y) for x, y in zip(a, b, strict=True)]))


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
    curve = [[line["step"], line["valid_loss"]] for line in trained.metrics]
    facts = frame.facts(trained, s.tasks) | agreement | {"curve": curve}
    return EXPERIMENT.finish(s, values, note=note, **facts)


def overview(root: Path) -> None:
    """The figure of all methods."""
    path = figure(root / "credit", partial(draw, EXPERIMENT.results(root)), 1, 3, SIZE)
    print(f"Figure: {path}")


if __name__ == "__main__":
    EXPERIMENT.main(run, overview)
