"""The wheel bandit: meta-train offline on random pulls, then play.

    python experiments/bandit.py --method cml-mod --seed 0
    metacontrast report runs/bandit

Cumulative regret in percent of that of uniformly random arms. Tasks and games on which settings
were chosen are not those of results (`_bandit_tuning.py`: those of the tuned baseline). Departures
from the published settings are named where they are made; of the protocol: 10,000 trials by each
player rather than 80,000, and 5 games a delta rather than 50.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import frame
import jax
import jax.numpy as jnp
import numpy as np
import optax
from _bandit_figures import draw_policies, draw_regrets, policies, save_regrets
from _bandit_neural_linear import Prior, neural_linear
from _bandit_play import FIRST, Agent, Buffer, play_all, uniform
from jaxtyping import PyTree

import metacontrast as mc
from metacontrast.nets import Net, mlp
from metacontrast.report import figure
from metacontrast.slow import modulated, modulation
from metacontrast.tasks import wheel
from metacontrast.tasks._wheel import ARMS, uniform_regret
from metacontrast.train import evaluator, half_width, validation


@dataclass(frozen=True, kw_only=True)
class Settings(frame.Settings):
    """What a run depends on."""

    tasks: int = 8  # Wheels a meta-step.
    pulls: int = 64  # Of a wheel, to learn from at most,
    fewest: int = 10  # and at least.
    queries: int = 32  # Pulls of its outer loss.
    outer_rate: float = 5e-3  # Of theta.
    last_rate: float = 0.02  # Of the outer rate, at the end of its cosine.
    first_lambda: float = 50.0  # Of every fast weight; it is learned.
    # Departure: 100 as published.
    width: int = 40  # Of both hidden layers.
    # Departure: tenths of rewards, so that 50 is no more than 5.
    unit: float = 10.0  # What rewards are counted in.
    rate: float = 0.03  # Of descent on a task; of the baseline's network.
    free: int = 8  # Inner steps.
    nudged: int = 4  # Inner steps of a nudged phase.
    beta: float = 0.05  # The strength of the nudge.
    valid_tasks: int = 50  # Which say on the way how theta does.
    trials: int = 10000  # Of each game; published: 80000.
    online_seeds: int = 5  # Games a delta; published: 50.
    deltas: tuple[float, ...] = (0.5, 0.7, 0.9, 0.95, 0.99)  # The wheels that are played.
    block: int = 50  # Trials from one update to the next.
    batch: int = 128  # Pulls of an update.
    updates: int = 2  # Inner steps of an update.
    damping: float = 0.1  # Of Gauss-Newton in an update.
    noise: tuple[float, float] = (12.0, 30.0)  # Of the baseline: a, b of its prior's InverseGamma.
    pull: float = 23.0  # Of the baseline: the precision of its prior on weights.


_PULLED_BACK = Settings(method="cml-mod", steps=200, batch=512, damping=1.0)
# As published, but that posteriors too wait for the end of the block.
_NEURAL_LINEAR = Settings(
    method="neural-linear", width=100, rate=0.01, batch=512, updates=50, block=20, unit=1.0
)
SHORT = (1000,)  # Trials after which regret is told, too.
METHODS = {
    "cml-mod": replace(_PULLED_BACK, batch=1024, updates=1),
    "cml-syn": replace(_PULLED_BACK, method="cml-syn"),
    "maml": Settings(
        method="maml", steps=600, tasks=16, outer_rate=1e-3, free=10, batch=2048, updates=100
    ),
    "neural-linear": _NEURAL_LINEAR,
    "neural-linear-tuned": replace(
        _NEURAL_LINEAR,
        method="neural-linear-tuned",
        unit=10.0,
        noise=(12.0, 3.0),
        pull=1.0,
        rate=0.003,
    ),
    "uniform": Settings(method="uniform"),
}
EXPERIMENT = frame.Experiment(
    "bandit",
    metric="cumulative regret, percent of the uniform player's, mean of all deltas",
    methods=METHODS,
    default="cml-mod",
)


class Learner(NamedTuple):
    """What is meta-trained, and how it then plays.

    Attributes:
        problem: offline; its tasks are of `tasks.wheel`.
        solver: its free phase.
        estimator: of the meta-gradient.
        predict: `(phi, theta, x (n, 2)) -> rewards (n, arms)`, in units.
        online: how a block's buffer changes phi: a solver of the same problem.
    """

    problem: mc.Problem
    solver: mc.Solver
    estimator: mc.Estimator
    predict: Callable[[PyTree, PyTree, jax.Array], jax.Array]
    online: mc.Solver


def network(s: Settings) -> Net:
    """From a context to a reward for each arm."""
    return mlp(2, s.width, 2, ARMS, jax.nn.relu if s.method == "maml" else jnp.tanh)


def fast(s: Settings, omega: PyTree) -> PyTree:
    """What a task teaches: all weights, or a network's gains, shifts and head."""
    return modulation(omega) if s.method == "cml-mod" else omega


def first_theta(s: Settings) -> PyTree:
    """A random network; and equal strengths of all that is fast, if it is pulled back."""
    if s.method == "maml":
        return network(s).init(frame.first_key(s.seed))
    return frame.synapses(network(s).init, s.seed, s.first_lambda, partial(fast, s))


def learner(s: Settings) -> Learner:
    """What a method meta-trains."""
    return initialised(s) if s.method == "maml" else pulled_back(s)


def pulled_back(s: Settings) -> Learner:
    """`cml-mod` and `cml-syn`: gains, shifts and head are fast, or all is; each is pulled back.

    Departures: Gauss-Newton in sample space replaces hundreds of steps of descent; lambda, one a
    fast weight, is learned, where it is fixed (`cml-syn`) or there is none (`cml-mod`) as
    published; and the network of `cml-syn` is of tanh.
    """
    net = network(s)

    def whole(phi: PyTree, theta: mc.Synapse) -> PyTree:
        return modulated(phi, theta.omega) if s.method == "cml-mod" else phi

    def residual(phi: PyTree, theta: mc.Synapse, example: mc.Data) -> jax.Array:
        paid = net.apply(whole(phi, theta), example.x)[example.y.arm]
        return jnp.sqrt(example.y.weight) * (paid - example.y.reward / s.unit)

    def prior(theta: mc.Synapse) -> mc.Synapse:
        return theta._replace(omega=fast(s, theta.omega))

    problem = mc.Problem(
        init=lambda theta, task: prior(theta).omega,
        inner=mc.LeastSquares(residual, lambda task: task.train, prior),
        outer=mc.LeastSquares(residual, lambda task: task.test),
    )
    return Learner(
        problem,
        mc.gauss_newton(s.free),
        mc.Contrastive(s.beta, nudged=mc.gauss_newton(s.nudged)),
        lambda phi, theta, x: jax.vmap(net.apply, (None, 0))(whole(phi, theta), x),
        online=mc.gauss_newton(s.updates, damping=s.damping),
    )


def initialised(s: Settings) -> Learner:
    """MAML: where a few steps of descent start is learned, by going back through them."""
    net = network(s)

    def loss(phi: PyTree, data: mc.Data) -> jax.Array:
        paid = jax.vmap(lambda x, arm: net.apply(phi, x)[arm])(data.x, data.y.arm)
        squares = (paid - data.y.reward / s.unit) ** 2
        return jnp.sum(data.y.weight * squares) / jnp.sum(data.y.weight)

    problem = mc.Problem(
        init=lambda theta, task: theta,
        inner=lambda phi, theta, task: loss(phi, task.train),
        outer=lambda phi, theta, task: loss(phi, task.test),
    )
    descent = lambda steps: mc.descend(optax.sgd(s.rate), steps)
    predict = lambda phi, theta, x: jax.vmap(net.apply, (None, 0))(phi, x)
    return Learner(problem, descent(s.free), mc.Unrolled(), predict, descent(s.updates))


def greedy(s: Settings, theta: PyTree) -> Agent:
    """The player with this theta: it takes the arm that it predicts to pay most; phi goes on."""
    problem, _, _, predict, online = learner(s)

    def learn(phi: PyTree, buffer: Buffer, key: jax.Array) -> PyTree:
        data = buffer.batch(key, s.batch)
        return online(mc.Loss(problem, theta, mc.Task(data, data)), phi).phi

    return Agent(
        start=lambda key: problem.init(theta, None),
        act=lambda phi, x, key: jnp.argmax(predict(phi, theta, x), axis=1),
        learn=learn,
        every=s.block,
    )


def baseline(s: Settings) -> Agent:
    """NeuralLinear with these settings."""
    prior = Prior(*s.noise, s.pull)
    return neural_linear(s.width, s.batch, s.updates, s.rate, prior, s.unit, s.block)


def player(s: Settings) -> tuple[Agent, float]:
    """The player, and the seconds that meta-training took."""
    if not METHODS[s.method].steps:
        if s.steps:
            raise ValueError(f"steps: {s.method} takes no meta-steps; leave it out.")
        EXPERIMENT.claim(s)
        return uniform(s.block) if s.method == "uniform" else baseline(s), 0.0
    theta, seconds = meta_learned(s)
    return greedy(s, theta), seconds


def meta_learned(s: Settings) -> tuple[PyTree, float]:
    """The theta of a method that is meta-trained, and the seconds that it took."""
    problem, solver, estimator, _, _ = learner(s)
    scores = evaluator(problem, solver)
    sample_task = partial(wheel, pulls=s.pulls, queries=s.queries, fewest=s.fewest)
    valid_tasks = frame.stack_tasks(sample_task, "valid", s.valid_tasks)
    trained = EXPERIMENT.meta_train(
        s,
        problem,
        solver,
        estimator,
        sample_task,
        first_theta(s),
        frame.outer_optimizer(s.outer_rate, s.steps, s.last_rate),
        tasks=s.tasks,
        validate=lambda theta: validation(scores(theta, valid_tasks)),
    )
    return trained.theta, trained.seconds


def regret(s: Settings, agent: Agent, keys: jax.Array) -> np.ndarray:
    """The expected regret of each trial of each game of each delta (deltas, games, trials).

    The games of these keys, the same for every player and every delta.
    """
    return np.asarray(play_all(agent, jnp.array(s.deltas), keys, s.trials), np.float64)


def relative(s: Settings, each: np.ndarray) -> np.ndarray:
    """Cumulative regret in percent of the uniform player's expected one (deltas, games)."""
    chance = np.array([uniform_regret(delta) for delta in s.deltas]) * each.shape[2]
    return 100 * each.sum(axis=2) / chance[:, None]


def run(s: Settings) -> dict[str, Any]:
    """One method, one seed: meta-train, play, write result.json, regrets and figures."""
    if s.trials < 1 or s.trials % s.block:
        raise ValueError(
            f"trials: must be a multiple of {s.block}, the trials between two updates (block), not "
            f"{s.trials}."
        )
    if s.online_seeds < 2:
        raise ValueError(
            f"online_seeds: must be at least 2, to tell a spread, not {s.online_seeds}."
        )
    tests = frame.Tests(lambda part: jax.random.split(frame.held_out(part), s.online_seeds))
    agent, seconds = player(s)
    tests.chosen(agent)
    games = tests.open()
    each, folder = regret(s, agent, games), EXPERIMENT.folder(s)
    save_regrets(folder, s.deltas, each)
    percent = relative(s, each)
    by_delta = {
        str(delta): (float(row.mean()), half_width(row))
        for delta, row in zip(s.deltas, percent, strict=True)
    }
    lines = (f"\n  delta {d}: {v:.2f} +- {half:.2f}" for d, (v, half) in by_delta.items())
    # A game's deltas share their contexts: its mean is one value.
    values = percent.mean(axis=0)
    facts: dict[str, Any] = dict(seconds=seconds, trials=s.trials, by_delta=by_delta)
    # Of each game of each delta, so that its spread can be told from that of meta-training.
    facts["games"] = {
        str(n): relative(s, each[:, :, : FIRST + n]).tolist()
        for n in sorted({*SHORT, s.trials})
        if n <= s.trials
    }
    n = len(s.deltas)
    curves = partial(draw_regrets, folder.parent.parent, s.deltas, METHODS)
    figure(folder / "regret", curves, 1, n)
    facts["policies"] = policies(agent, s.deltas, games[0], s.trials)
    figure(folder / "policy", partial(draw_policies, facts["policies"]), 2, n, (2, 2))
    return EXPERIMENT.finish(s, values, note="".join(lines), **facts)


if __name__ == "__main__":
    EXPERIMENT.main(run)
