"""The players of the wheel that were meta-trained offline, and how they learn online."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import metacontrast as mc

from ..nets import mlp
from ..tasks._wheel import ARMS
from ._bandit_online import Agent, Buffer

TRIALS, GAMES = 1000, 5  # of each game; for each delta
# Departure: the networks predict tenths of rewards, so that 50 is no more than 5.
UNIT = 10.0
# Departure: 100 as published.
WIDTH = 40
SMOOTH = mlp(2, WIDTH, 2, ARMS, jnp.tanh)
SHARP = mlp(2, WIDTH, 2, ARMS, jax.nn.relu)


@dataclass(frozen=True)
class Settings:
    """What a run depends on besides its method and seed."""

    steps: int
    tasks: int
    pulls: int
    queries: int
    fewest: int | None
    outer_rate: float
    first_lambda: float = 1.0
    beta: float = 0.05
    trials: int = TRIALS
    online_seeds: int = GAMES
    block: int = 50  # trials from one update to the next
    batch: int = 256
    updates: int = 2
    rate: float = 0.0  # of gradient descent
    last_rate: float = 0.02  # of the outer rate, at the end of its cosine


class Learner(NamedTuple):
    """What is meta-trained, and how it then plays.

    Attributes:
        first: `key -> theta`.
        problem: offline; its tasks are of `tasks.wheel`.
        solve: its free phase.
        estimator: of the meta-gradient.
        predict: `(phi, theta, x (n, 2)) -> tenths of rewards (n, arms)`.
        online: how a block's buffer changes phi: a solver of the same problem.
    """

    first: Callable[[jax.Array], Any]
    problem: mc.Problem
    solve: Any
    estimator: Any
    predict: Callable[[Any, Any, jax.Array], jax.Array]
    online: Any


def pulled_back(chosen: Settings, modulated: bool) -> Learner:
    """`cml-mod` and `cml-syn`: gains, shifts and head are fast, or all is; each is pulled back.

    Departures: Gauss-Newton in sample space replaces hundreds of steps of descent; lambda, one a
    fast weight, is learned, where it is fixed (`cml-syn`) or there is none (`cml-mod`) as
    published; and the network of `cml-syn` is of tanh.
    """
    fast = mc.modulation if modulated else (lambda slow: slow)
    whole = mc.modulated if modulated else (lambda phi, slow: phi)

    def residual(phi: Any, theta: Any, example: mc.Data) -> jax.Array:
        paid = SMOOTH.apply(whole(phi, theta[0]), example.x)[example.y.arm]
        return jnp.sqrt(example.y.weight) * (paid - example.y.reward / UNIT)

    def first(key: jax.Array) -> Any:
        slow = SMOOTH.init(key)
        log_lam = jnp.log(chosen.first_lambda)
        return slow, jax.tree.map(lambda leaf: jnp.full(leaf.shape, log_lam), fast(slow))

    problem = mc.Problem(
        init=lambda theta, task: fast(theta[0]),
        inner=mc.LeastSquares(
            residual, lambda task: task.train, lambda theta: (fast(theta[0]), theta[1])
        ),
        outer=mc.LeastSquares(residual, lambda task: task.test),
    )
    rule = mc.Contrastive(chosen.beta, nudged=mc.gauss_newton(4))
    predict = lambda phi, theta, x: jax.vmap(SMOOTH.apply, (None, 0))(whole(phi, theta[0]), x)
    online = mc.gauss_newton(chosen.updates, damping=0.1)
    return Learner(first, problem, mc.gauss_newton(8), rule, predict, online)


def initialised(chosen: Settings) -> Learner:
    """MAML: where ten steps of gradient descent start is learned, by going back through them."""

    def loss(phi: Any, data: mc.Data) -> jax.Array:
        paid = jax.vmap(lambda x, arm: SHARP.apply(phi, x)[arm])(data.x, data.y.arm)
        squares = (paid - data.y.reward / UNIT) ** 2
        return jnp.sum(data.y.weight * squares) / jnp.sum(data.y.weight)

    problem = mc.Problem(
        init=lambda theta, task: theta,
        inner=lambda phi, theta, task: loss(phi, task.train),
        outer=lambda phi, theta, task: loss(phi, task.test),
    )
    descent = lambda steps: mc.descend(optax.sgd(chosen.rate), steps)
    predict = lambda phi, theta, x: jax.vmap(SHARP.apply, (None, 0))(phi, x)
    online = descent(chosen.updates)
    return Learner(SHARP.init, problem, descent(10), mc.Unrolled(), predict, online)


def greedy(learner: Learner, theta: Any, chosen: Settings) -> Agent:
    """The player with this theta: it takes the arm that it predicts to pay most; phi goes on."""

    def learn(phi: Any, buffer: Buffer, key: jax.Array) -> Any:
        data = buffer.batch(key, chosen.batch)
        loss = learner.problem.loss(theta, mc.Task(data, data))
        return learner.online(loss, phi).phi

    return Agent(
        start=lambda key: learner.problem.init(theta, None),
        act=lambda phi, x, key: jnp.argmax(learner.predict(phi, theta, x), axis=1),
        learn=learn,
        every=chosen.block,
    )
