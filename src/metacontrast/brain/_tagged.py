"""The contrastive rule as one online process: learn, tag, learn nudged, tag, consolidate."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from .._contrast import Phase
from .._diagnostics import phase_diagnostics
from .._estimator._base import Estimator, MetaGradient, Phases
from .._loss import Loss, OuterNudge
from .._must import BelowOne, Index, NotNegative, nudge
from .._solver._base import Solution, Solver
from .._synapse import Synapse
from .._tree import widened
from .._types import PyTree
from ._hippocampus import Memory
from ._plasticity import Plasticity, memory_and_signal_keys
from ._signals import Signal, signals
from ._tags import consolidate, tag


class Weights(NamedTuple):
    """What changes while a task is learned: fast weights, and the two tags of every synapse."""

    phi: PyTree
    tags: Synapse


@dataclass(frozen=True)
class Tagged(Estimator):
    """An estimator that runs forward in time, one replayed item after another, and only once.

    A synapse stores phi, omega, log lambda and a tag for each of the latter. Replays reach it
    through the gradient of one item's loss; two broadcast signals say the end of the free phase
    (sign -1) and of the nudged one (sign +1), when it adds to its tags (see `tag`). What the tags
    then hold is the meta-gradient of `Contrastive(beta, nudged=...)`, to round-off, for the same
    `Plasticity`. Nothing of the past is stored but the tags, and nothing runs backwards through
    learning. An optimiser of each weight by itself (SGD, Adam) is a local consolidation; the mean
    over tasks is that of tags which gather over several tasks until theta moves.

    Args:
        beta: the nudge, finite and not 0.
        nudged: how the nudged phase learns; its hippocampus is that of the free phase, whose
            memory goes on.
        decay: the fraction of a tag that is lost at each step.
        noise: standard deviation of the error of what is added to a tag, relative to it.
        jitter: each phase's signal comes up to so many steps early or late, uniformly.
        at_once: the rate at which theta moves when the free phase ends, instead of only when both
            have: the nudged phase then pulls to another omega. 0: theta waits.

    Raises:
        ValueError: a bad argument, no key for noise or jitter, a theta without one omega and one
            log_lam a weight, a problem that samples.
        TypeError: a solver that is not `Plasticity`, a theta that is no `Synapse`.

    Reference: the locality of the rule: Zucchet et al., 2022; tags and their consolidation: Frey
    and Morris, 1997; replay: McClelland, McNaughton, O'Reilly, 1995.

    Example:
        >>> import metacontrast as mc
        >>> loss = lambda phi, item: jnp.sum((phi - item.y) ** 2)
        >>> problem = mc.Problem(
        ...     init=lambda theta, task: theta.omega,
        ...     inner=lambda phi, theta, task: loss(phi, task.train) + theta.pull(phi),
        ...     outer=lambda phi, theta, task: loss(phi, task.test),
        ... )
        >>> learner = Plasticity(loss, rate=0.1, steps=100)
        >>> items = lambda y: mc.Data(jnp.zeros(1), jnp.array([y]))
        >>> task = mc.Task(train=items(3.0), test=items(0.0))
        >>> theta = mc.Synapse(jnp.array(1.0), jnp.array(0.0))
        >>> rule = Tagged(beta=0.001, nudged=learner)
        >>> grad = jax.grad(mc.meta_loss(problem, learner, rule))(theta, task)
        >>> round(float(grad.omega), 1)  # phi_0 = 2, d phi_0 / d omega = 1/2
        2.0
    """

    beta: Annotated[float, nudge()]
    nudged: Plasticity
    decay: BelowOne = 0.0
    noise: NotNegative = 0.0
    jitter: Index = 0
    at_once: NotNegative = 0.0

    def value_and_grad(
        self, loss: Loss, solver: Solver, starts: Phases | None = None
    ) -> MetaGradient:
        """What the tags hold in the end; the aux is that of `Contrastive`.

        The value and the aux are taken on the task itself, by an onlooker. Not a call of
        `contrast`, which keeps the ends of both phases and differentiates; here each synapse
        subtracts for itself, while it learns.
        """
        free_learner, phi = self._check(solver, loss)
        theta: Synapse = loss.theta
        keys = (None, None) if loss.key is None else memory_and_signal_keys(loss.key)
        memory = free_learner.hippocampus.store(loss.z, keys[0])
        steps = free_learner.steps
        signal = signals(steps, self.nudged.steps, self.jitter, self.noise, theta, keys[1])
        phase = partial(self._phase, memory=memory, signal=signal)
        # In a wide type, whatever theta's: what the phases add is large, and cancels.
        start = Weights(phi, jax.tree.map(lambda x: widened(jnp.zeros_like(x)), theta))
        free = phase(free_learner, theta, start, jnp.arange(steps))
        pulled_to = consolidate(theta, free.tags, self.at_once) if self.at_once else theta
        times = steps + jnp.arange(self.nudged.steps + self.jitter)
        end = phase(self.nudged, pulled_to, free, times, beta=self.beta)
        nudged = Phase(loss.nudged(OuterNudge(self.beta)), Solution(end.phi), 1 / self.beta)
        aux = phase_diagnostics(loss, free.phi, [nudged])
        return MetaGradient(aux["outer"], end.tags, aux=aux)

    def _phase(
        self,
        learner: Plasticity,
        synapse: Synapse,
        weights: Weights,
        times: jax.Array,
        *,
        memory: Memory,
        signal: Signal,
        beta: float | None = None,
    ) -> Weights:
        """One step after another: learn, forget a little of the tags, add to them on a signal."""
        lam, omega = synapse.strengths(weights.phi), synapse.resting_point(weights.phi)

        def step(weights: Weights, t: jax.Array) -> tuple[Weights, None]:
            phi = learner.update(weights.phi, synapse, lam, memory, t - times[0], beta)
            tags = jax.tree.map(lambda leaf: (1 - self.decay) * leaf, weights.tags)
            return Weights(phi, tag(tags, phi, omega, lam, signal(t + 1), self.beta)), None

        return jax.lax.scan(step, weights, times)[0]

    def _check(self, solver: Solver, loss: Loss) -> tuple[Plasticity, PyTree]:
        """The solver and where it starts, if they fit."""
        if not isinstance(solver, Plasticity):
            raise TypeError(
                f"solver: Tagged needs brain.Plasticity as the learner, not {solver!r}; or take "
                "Contrastive, which runs any solver."
            )
        phi = loss.problem.init(loss.theta, loss.z)
        solver.check_loss(loss)
        if self.jitter >= min(solver.steps, self.nudged.steps):
            raise ValueError(f"jitter: {self.jitter} steps are a whole phase; lower it.")
        shapes = jax.tree.map(jnp.shape, phi)
        if jax.tree.map(jnp.shape, loss.theta) != Synapse(shapes, shapes):
            raise ValueError(
                "theta: Tagged needs a Synapse whose omega and log_lam are each of phi's structure "
                "and shapes, since each synapse has tags of its own; spread a shared strength out "
                "by jax.tree.map(jnp.full_like, ...)."
            )
        return solver, phi
