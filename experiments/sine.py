"""Regression of sines from 10 points by a network 1-40-40-1.

    python experiments/sine.py --method cml-gn --seed 0
    metacontrast report runs/sine

The published figures are of Sacramento's talk on the paper (Zucchet et al., 2022). The methods
`paper-...` are in the nearest published settings (`_sine_published.py`), the others at our best.
The README says how the settings were chosen; departures are named where they are made.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import _sine_published as published
import frame
import jax
import jax.numpy as jnp
import numpy as np
import optax
from _sine_settings import METHODS as METHODS
from _sine_settings import TALK, Settings
from jaxtyping import PyTree

import metacontrast as mc
from metacontrast._predictions import draw_predictions
from metacontrast.nets import Net, mlp
from metacontrast.report import figure
from metacontrast.slow import modulated, modulation
from metacontrast.tasks import sine
from metacontrast.train import Trained, evaluator, summarise, validation

SUGGESTING = 8  # training tasks that suggest a beta
EXPERIMENT = frame.Experiment(
    "sine",
    metric="mean squared error on held-out tasks",
    methods=METHODS,
    default="cml-gn",
    rows={name: TALK.get(re.sub("^(paper|cml)-|-tuned$", "", name), "") for name in METHODS},
)


class Learner(NamedTuple):
    """What is learned, how, and how the meta-gradient is obtained."""

    problem: mc.Problem
    solver: Any
    estimator: Any  # None: there is no meta-learning


def learner(s: Settings) -> Learner:
    """What a method meta-trains."""
    if s.method.startswith(("paper-gd", "paper-sgd")):
        batch = s.batch if s.method.startswith("paper-sgd") else None
        problem = published.synapse(partial(squares, s), s.first_lambda, batch)
        solver = mc.descend(published.adam(s.rate), s.free)
        return Learner(problem, solver, published.rule(s.beta, s.rate, s.nudged))
    if s.method.startswith(("cml-gd", "cml-sgd")):
        # Departure: symmetric, where the talk's table is taken to be forward. Both phases take the
        # same steps on the same mini-batches, so that what is not yet converged or noisy cancels.
        estimator = mc.Contrastive(s.beta, "symmetric", nudged=nesterov(s.rate, s.nudged))
        return Learner(synapse(s), nesterov(s.rate, s.free), estimator)
    if s.method in ("cml-gn", "cml-mod"):
        estimator = mc.Contrastive(s.beta, nudged=mc.gauss_newton(s.nudged))
        return Learner(least_squares(s), mc.gauss_newton(s.free), estimator)
    optimizers = {
        "paper-scratch": published.adam(s.rate), "scratch": optax.adam(s.rate),
        "maml-rates": at_rates,
    }  # fmt: skip
    rules = {
        "paper-maml": mc.Unrolled(), "maml": mc.Unrolled(), "maml-trajectory": mc.Trajectory(),
        "maml-rates": mc.Trajectory(), "fomaml": mc.FirstOrder(),
    }  # fmt: skip
    solver = mc.descend(optimizers.get(s.method, optax.sgd(s.rate)), s.free)
    return Learner(initialisation(s), solver, rules.get(s.method.removesuffix("-tuned")))


def with_beta(s: Settings) -> Settings:
    """The same, with a nudge that no run was tuned by, where none is given."""
    if s.beta is not None:
        return s
    problem, solver, rule = learner(replace(s, beta=1.0))
    keys = jax.random.split(jax.random.fold_in(frame.first_key(s.seed), 1), SUGGESTING)
    tasks = jax.vmap(partial(sine, shots=s.shots, queries=s.queries))(keys)
    return replace(s, beta=frame.suggested_beta(problem, solver, rule, first_theta(s), tasks))


class Rates(NamedTuple):
    """Where learning starts, and the logarithm of a rate for each array of weights."""

    omega: PyTree
    log_rate: PyTree


def at_rates(theta: Rates) -> optax.GradientTransformation:
    """Gradient descent at these rates."""
    step = lambda log_rate, slope: -jnp.exp(log_rate) * slope
    return optax.stateless(lambda slopes, phi: jax.tree.map(step, theta.log_rate, slopes))


def nesterov(rate: float, steps: int) -> Any:
    """Gradient descent with momentum, its rate falling to a hundredth on a cosine.

    Departure: the nearest published settings are 500 steps of Adam, 250 nudged ones, beta 3. Adam
    moves every weight by its rate at first, however small the nudge; plain momentum does not.
    """
    falling = optax.cosine_decay_schedule(rate, steps, 0.01)
    return mc.descend(optax.sgd(falling, 0.9, nesterov=True), steps)


def fast(s: Settings, omega: PyTree) -> PyTree:
    """What a task teaches: all weights, or a network's gains, shifts and head."""
    return modulation(omega) if s.method == "cml-mod" else omega


def network(s: Settings, phi: PyTree, theta: mc.Synapse | Rates) -> PyTree:
    """The network's weights, once phi is learned."""
    return modulated(phi, theta.omega) if s.method == "cml-mod" else phi


def net(s: Settings) -> Net:
    """The network 1-40-40-1: tanh, or the published ReLU."""
    activation = jax.nn.relu if s.method.startswith("paper") else jnp.tanh
    return mlp(1, 40, 2, 1, activation, s.precision)


def errors(s: Settings, phi: PyTree, data: mc.Data) -> jax.Array:
    """What the network lacks at each point."""
    return jax.vmap(partial(net(s).apply, phi))(data.x) - data.y


def squares(s: Settings, phi: PyTree, data: mc.Data) -> jax.Array:
    """The sum of squared errors."""
    return jnp.sum(errors(s, phi, data) ** 2)


def synapse(s: Settings) -> mc.Problem:
    """The complex synapse: omega and one lambda a weight are learned; learning starts at omega."""

    def inner(phi: PyTree, theta: mc.Synapse, task: mc.Task) -> jax.Array:
        scale = s.shots / task.train.x.shape[0]  # of a mini-batch, whose sum it makes unbiased
        return scale * squares(s, phi, task.train) + theta.pull(phi)

    def some(task: mc.Task, key: jax.Array) -> mc.Task:
        chosen = jax.random.choice(key, s.shots, (s.batch,), replace=False)
        return task._replace(train=jax.tree.map(lambda leaf: leaf[chosen], task.train))

    return mc.Problem(
        init=lambda theta, task: theta.omega,
        inner=inner,
        outer=lambda phi, theta, task: squares(s, phi, task.test),
        sample=some if s.batch < s.shots else None,
    )


def least_squares(s: Settings) -> mc.Problem:
    """The same, as `gauss_newton` wants it, of all weights or of those of `modulation`.

    Departure, of the latter: the published ones are not pulled back; a thousand small steps keep
    them near.
    """

    def residual(phi: PyTree, theta: mc.Synapse, example: mc.Data) -> jax.Array:
        return net(s).apply(network(s, phi, theta), example.x) - example.y

    def prior(theta: mc.Synapse) -> mc.Synapse:
        return theta._replace(omega=fast(s, theta.omega))

    return mc.Problem(
        init=lambda theta, task: prior(theta).omega,
        inner=mc.LeastSquares(residual, lambda task: task.train, prior),
        outer=mc.LeastSquares(residual, lambda task: task.test),
    )


def initialisation(s: Settings) -> mc.Problem:
    """MAML's: where learning starts is learned, and nothing pulls it back."""
    return mc.Problem(
        init=lambda theta, task: theta.omega,
        inner=lambda phi, theta, task: squares(s, phi, task.train),
        outer=lambda phi, theta, task: squares(s, phi, task.test),
    )


def first_theta(s: Settings) -> mc.Synapse | Rates:
    """A random network, and equal strengths of all that is fast, or rates; MAML's has neither."""
    init = partial(published.init, net(s)) if s.method.startswith("paper") else net(s).init
    theta = frame.synapses(init, s.seed, s.first_lambda, partial(fast, s))
    if s.method == "maml-rates":
        return Rates(theta.omega, jax.tree.map(lambda _: jnp.log(s.rate), theta.omega))
    return theta if s.method.startswith("cml") else mc.Synapse(theta.omega, None)


def curves(s: Settings, theta: mc.Synapse | Rates) -> Callable[..., list[jax.Array]]:
    """`(x, task)`: what the network says at x before and after learning the task."""
    problem, solver, _ = learner(s)

    def of(x: jax.Array, task: mc.Task) -> list[jax.Array]:
        after = mc.solve_inner(problem, solver, theta, task, jax.random.key(0)).phi
        ends = problem.init(theta, task), after
        return [jax.vmap(partial(net(s).apply, network(s, phi, theta)))(x) for phi in ends]

    return of


def outer_optimizer(s: Settings) -> optax.GradientTransformation:
    """Of theta."""
    if s.method.startswith("paper"):
        # As published it does not fall: `last_rate` is 1.
        rate = optax.cosine_decay_schedule(s.outer_rate, s.steps, s.last_rate)
        return published.optimizer(rate, not s.method.startswith("paper-maml"))
    return frame.outer_optimizer(s.outer_rate, s.steps, s.last_rate)


def held_out(s: Settings, part: str, n: int) -> mc.Task:
    """Tasks to be judged on, stacked."""
    return frame.stack_tasks(partial(sine, shots=s.shots, queries=s.test_queries), part, n)


def scorer(s: Settings) -> Callable[[PyTree, mc.Task], np.ndarray]:
    """`scores(theta, tasks)`: the mean squared error on each."""
    problem, solver, _ = learner(s)
    error = lambda phi, theta, task: jnp.mean(errors(s, network(s, phi, theta), task.test) ** 2)
    return evaluator(problem, solver, metric=error)


def meta_train(
    s: Settings, of: Learner, scores: Callable[[PyTree, mc.Task], np.ndarray]
) -> Trained:
    """Validation tasks say on the way how theta does."""
    valid_tasks = held_out(s, "valid", s.valid_tasks)
    return EXPERIMENT.meta_train(
        s,
        *of,
        partial(sine, shots=s.shots, queries=s.queries),
        first_theta(s),
        outer_optimizer(s),
        tasks=s.tasks,
        validate=lambda theta: validation(scores(theta, valid_tasks)),
    )


def run(s: Settings) -> dict[str, Any]:
    """One method, one seed: meta-train, test, write result.json and a figure."""
    chosen = with_beta(s)
    of, scores = learner(chosen), scorer(chosen)
    tests = frame.Tests(lambda part: held_out(s, part, s.test_tasks))
    theta, best, facts = first_theta(s), None, frame.facts()
    if of.estimator is None:
        if s.steps:
            raise ValueError(f"steps: {s.method} takes no meta-steps; leave it out.")
        EXPERIMENT.claim(s)
    else:
        trained = meta_train(s, of, scores)
        theta, facts = trained.theta, frame.facts(trained, s.tasks)
        facts["beta"] = chosen.beta
        if trained.best_step is not None:
            best = trained.best
            facts["best"] = {"step": trained.best_step}
    tests.chosen((theta, best))
    test_tasks = tests.open()
    if best is not None:
        # The value is of the last theta; beside it stands that of the one best on validation.
        facts["best"]["value"] = summarise(scores(best, test_tasks))["value"]
    predictions = partial(draw_predictions, curves(chosen, theta), test_tasks)
    figure(EXPERIMENT.folder(s) / "predictions", predictions, 2, 2)
    return EXPERIMENT.finish(s, scores(theta, test_tasks), **facts)


if __name__ == "__main__":
    EXPERIMENT.main(run)
