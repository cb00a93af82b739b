"""A learner of one replayed item at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from .._loss import Loss
from .._must import Positive
from .._solver._base import Solver, State
from .._synapse import Synapse
from .._types import Key, PyTree, Scalar, Step
from ._hippocampus import Hippocampus, Memory

PERFECT = Hippocampus()


@dataclass(frozen=True)
class Plasticity(Solver):
    """Plain gradient descent on one replayed item at a time, each weight pulled to its omega.

        phi_i <- phi_i - rate(t) [ gain dloss/dphi_i + 2 lambda_i (phi_i - omega_i) ].

    A solver for problems whose losses are sums over items of `loss`, plus the pull of the synapses
    inside, and whose theta is a `Synapse`: the ordinary rule, `Contrastive`, runs on it as the
    online one, `Tagged`, does. How `dloss/dphi_i` reaches the synapse is left open. No momentum:
    it would be one more number for every synapse to store.

    Args:
        loss: `(phi, item) -> number`, of one item of `task.train` or `task.test`.
        rate: of learning, a number or a function of the step, `optax` schedules included.
        hippocampus: what is replayed.
        steps: of the phase, one replay each (and one of a test item, if nudged by gain).

    Raises:
        ValueError: steps not positive; from the solver, a noisy memory without a key, a problem
            that samples.
        TypeError: from the solver, a theta that is no `Synapse`, a linear nudge.

    Example:
        >>> import metacontrast as mc
        >>> loss = lambda phi, item: (phi - item) ** 2
        >>> problem = mc.Problem(
        ...     init=lambda theta, task: theta.omega,
        ...     inner=lambda phi, theta, task: jnp.sum(loss(phi, task.train)) + theta.pull(phi),
        ...     outer=lambda phi, theta, task: jnp.sum(loss(phi, task.test)),
        ... )
        >>> task = mc.Task(train=jnp.array([1.0, 3.0]), test=jnp.array([2.0]))
        >>> theta = mc.Synapse(jnp.array(0.0), jnp.log(2.0))
        >>> solution = mc.solve_inner(problem, Plasticity(loss, 0.01, steps=400), theta, task)
        >>> round(float(solution.phi), 1)  # of two items against a pull of strength 2
        1.0
    """

    loss: Callable[[PyTree, PyTree], Scalar]
    rate: Positive | Callable[[Step], Scalar | float]
    hippocampus: Hippocampus = PERFECT

    def init(self, loss: Loss, phi: PyTree, memory: PyTree = None) -> State:
        """The noise on what is stored of the task: the same in every phase."""
        self.check_loss(loss)
        key = None if loss.key is None else memory_and_signal_keys(loss.key)[0]
        return State(phi, self.hippocampus.draw_noise(loss.z, key))

    def step(self, loss: Loss, state: State, t: Step) -> State:
        """One replay."""
        memory = self.hippocampus.memory(loss.z, state.memory)
        lam = loss.theta.strengths(state.phi)
        beta = None if loss.nudge is None else loss.nudge.beta
        return state._replace(phi=self.update(state.phi, loss.theta, lam, memory, t, beta))

    def update(
        self,
        phi: PyTree,
        synapse: Synapse,
        lam: PyTree,
        memory: Memory,
        t: Step,
        beta: Scalar | complex | None = None,
    ) -> PyTree:
        """phi after the replays of step `t`; `lam` is lambda, one a weight."""

        def replay(phi: PyTree) -> Scalar:
            items = self.hippocampus.replay(memory, t, beta)
            return sum((gain * self.loss(phi, item) for item, gain in items), jnp.zeros(()))

        rate = self.rate(t) if callable(self.rate) else self.rate
        return jax.tree.map(
            lambda p, g, o, s: p - rate * (g + 2 * s * (p - o)),
            phi,
            jax.grad(replay)(phi),
            synapse.resting_point(phi),
            lam,
        )

    def check_loss(self, loss: Loss) -> None:
        """Raise if this loss is none that it can learn."""
        if not isinstance(loss.theta, Synapse):
            raise TypeError(
                "theta: brain.Plasticity is a learner of complex synapses and needs a "
                f"Synapse(omega, log_lam), not {type(loss.theta).__name__}."
            )
        if loss.nudge is not None and not loss.nudge.replays:
            raise TypeError(
                "nudge: brain.Plasticity replays test items when nudged, and "
                f"{type(loss.nudge).__name__} shows it none; use Contrastive(nudge='outer') or "
                "Tagged, or give Contrastive(nudge='linear', nudged=descend(...))."
            )
        if loss.samples:
            raise ValueError(
                "solver: brain.Plasticity replays the items of the task itself, and this problem "
                "draws views of it (Problem(sample=...)), which it would not see; leave one of "
                "the two out."
            )


def memory_and_signal_keys(key: Key) -> tuple[Key, Key]:
    """What the task's key is split into: one for what is stored, one for the broadcast signals."""
    memory, signals = jax.random.split(key)
    return memory, signals
