"""The contrastive rule as one online process: learn, tag, learn nudged, tag, consolidate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .._check import shapes
from .._diagnostics import Diagnostics, contrasted
from .._problem import Loss, Problem, PyTree
from ._hippocampus import Memory
from ._plasticity import Plasticity, strengths
from ._signals import signals
from ._tags import consolidated, tagged


class State(NamedTuple):
    """What changes while a task is learned: fast weights, and the two tags of every synapse."""

    phi: PyTree
    tags: Any


@dataclass(frozen=True)
class Tagged:
    """An estimator that runs forward in time, one replayed item after another, and only once.

    A synapse holds phi, omega, log lambda and a tag for each of the latter. It is told of replays
    through the gradient of one item's loss, and, by two broadcast signals, of the end of the free
    phase (sign -1) and of the nudged one (sign +1), when it adds to its tags (see `tagged`). What
    the tags then hold is the meta-gradient of `Contrastive(beta, nudged=...)`, to round-off, for
    the same `Plasticity`. Nothing of the past is kept but the tags, and nothing runs backwards
    through learning. An optimiser of each weight by itself (SGD, Adam) is a local consolidation;
    the mean over tasks is that of tags which gather over several tasks until theta moves.

    Args:
        beta: the nudge, positive or negative.
        nudged: how the nudged phase learns; its hippocampus is that of the free phase, whose
            memory goes on.
        decay: the fraction of a tag that is lost at each step.
        noise: standard deviation of the error of what is added to a tag, relative to it.
        jitter: each phase's signal comes up to so many steps early or late, uniformly.
        at_once: the rate at which theta moves when the free phase ends, instead of only when both
            have: the nudged phase then pulls to another omega. 0: theta waits.

    Raises:
        ValueError: a bad argument, no key for noise or jitter, a theta that is not
            (omega, log_lam) with one log_lam a weight.
        TypeError: a learner that is not `Plasticity`.

    Reference: the locality of the rule: Zucchet et al., 2022; tags and their consolidation: Frey
    and Morris, 1997; replay: McClelland, McNaughton, O'Reilly, 1995.

    Example:
        >>> import metacontrast as mc
        >>> loss = lambda phi, item: jnp.sum((phi - item.y) ** 2)
        >>> problem = mc.Problem(
        ...     init=lambda theta, task: theta[0],
        ...     inner=lambda phi, theta, task: loss(phi, task.train) + mc.attraction(phi, *theta),
        ...     outer=lambda phi, theta, task: loss(phi, task.test),
        ... )
        >>> learner = Plasticity(loss, rate=0.1, steps=100)
        >>> items = lambda y: mc.Data(jnp.zeros(1), jnp.array([y]))
        >>> task = mc.Task(train=items(3.0), test=items(0.0))
        >>> theta = (jnp.array(1.0), jnp.array(0.0))
        >>> rule = Tagged(beta=0.001, nudged=learner)
        >>> _, (by_omega, _) = rule.value_and_grad(problem, learner, theta, task)
        >>> round(float(by_omega), 1)  # phi_0 = 2, d phi_0 / d omega = 1/2
        2.0
    """

    beta: float
    nudged: Plasticity
    decay: float = 0.0
    noise: float = 0.0
    jitter: int = 0
    at_once: float = 0.0

    def __post_init__(self) -> None:
        if self.beta == 0:
            raise ValueError("beta: the nudge must not be zero; try 0.1.")
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay: must be at least 0 and below 1, not {self.decay}.")
        for name in ("noise", "at_once", "jitter"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: must be at least 0, not {getattr(self, name)}.")

    def value_and_grad(
        self,
        problem: Problem,
        solve: Any,
        theta: PyTree,
        task: PyTree,
        key: jax.Array | None = None,
    ) -> tuple[tuple[jax.Array, Diagnostics], PyTree]:
        """`((L_out(phi_0), diagnostics), what the tags hold)`, as of `Contrastive`.

        The value and the diagnostics are taken on the task itself, by an onlooker.
        """
        shapes(problem, theta, task)
        phi = problem.init(theta, task)
        self._check(solve, theta, phi, key)
        memory = solve.store(task, key)
        signs = signals(solve.steps, self.nudged.steps, self.jitter, self.noise, theta, key)
        start = State(phi, jax.tree.map(jnp.zeros_like, theta))
        free = self._phase(solve, theta, memory, 0.0, signs, start, jnp.arange(solve.steps))
        moved = consolidated(theta, free.tags, self.at_once) if self.at_once else theta
        after = solve.steps + jnp.arange(self.nudged.steps + self.jitter)
        last = self._phase(self.nudged, moved, memory, self.beta, signs, free, after)
        loss = Loss(problem, theta, task)
        told = contrasted(loss, free.phi, [(loss.nudged(self.beta), last.phi)])
        return (told["outer"], told), last.tags

    def _phase(
        self,
        learner: Plasticity,
        theta: Any,
        memory: Memory,
        beta: float,
        signs: Any,
        state: State,
        times: jax.Array,
    ) -> State:
        """One step after another: learn, forget a little of the tags, add to them on a signal."""
        lam = strengths(theta, state.phi)

        def step(state: State, t: jax.Array) -> tuple[State, None]:
            phi = learner.step(state.phi, theta, lam, memory, t - times[0], beta)
            tags = jax.tree.map(lambda tag: (1 - self.decay) * tag, state.tags)
            return State(phi, tagged(tags, phi, theta[0], lam, signs(t + 1), self.beta)), None

        return jax.lax.scan(step, state, times)[0]

    def _check(self, solve: Any, theta: PyTree, phi: PyTree, key: jax.Array | None) -> None:
        if not isinstance(solve, Plasticity):
            raise TypeError(f"solve: Tagged needs brain.Plasticity as the learner, not {solve!r}.")
        if self.jitter >= min(solve.steps, self.nudged.steps):
            raise ValueError(f"jitter: {self.jitter} steps are a whole phase; lower it.")
        shaped = jax.tree.map(jnp.shape, phi)
        if not (isinstance(theta, tuple) and jax.tree.map(jnp.shape, theta) == (shaped, shaped)):
            raise ValueError(
                "theta: must be the pair (omega, log_lam), each of phi's structure and shapes; "
                "spread a shared strength out with jax.tree.map(jnp.full_like, ...)."
            )
        if key is None and (self.noise or self.jitter):
            raise ValueError("key: noise and jitter are drawn; pass a key after the task.")
