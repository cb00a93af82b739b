"""A learner of one replayed item at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from .._problem import PyTree
from .._solve import Solution, positive
from ..slow._attraction import broadcast
from ._hippocampus import Hippocampus, Memory

MEMORY = 2**32 - 1  # folded into the task's key: what is stored is the same in every phase
PERFECT = Hippocampus()


@dataclass(frozen=True)
class Plasticity:
    """Plain gradient descent on one replayed item at a time, each weight pulled to its omega:

        phi_i <- phi_i - rate(t) [ gain dloss/dphi_i + 2 lambda_i (phi_i - omega_i) ].

    A solver for problems whose losses are sums over items of `loss`, plus `attraction` inside, and
    whose theta is the pair (omega, log_lam): the ordinary rule, `Contrastive`, runs on it as the
    online one, `Tagged`, does. How `dloss/dphi_i` reaches the synapse is left open. No momentum:
    it would be one more number for every synapse to hold.

    Args:
        loss: `(phi, item) -> number`, of one item of `task.train` or `task.test`.
        rate: of learning, a number or a function of the step, `optax` schedules included.
        steps: of the phase, one replay each (and one of a test item, if nudged by gain).
        hippocampus: what is replayed.

    Example:
        >>> import metacontrast as mc
        >>> loss = lambda phi, item: (phi - item) ** 2
        >>> problem = mc.Problem(
        ...     init=lambda theta, task: theta[0],
        ...     inner=lambda phi, theta, task: jnp.sum(loss(phi, task.train))
        ...     + mc.attraction(phi, *theta),
        ...     outer=lambda phi, theta, task: jnp.sum(loss(phi, task.test)),
        ... )
        >>> task = mc.Task(train=jnp.array([1.0, 3.0]), test=jnp.array([2.0]))
        >>> theta = (jnp.array(0.0), jnp.log(2.0))
        >>> solution = mc.learn(problem, Plasticity(loss, 0.01, 400), theta, task)
        >>> round(float(solution.phi), 1)  # of two items against a pull of strength 2
        1.0
    """

    loss: Callable[[PyTree, PyTree], jax.Array]
    rate: Any
    steps: int
    hippocampus: Hippocampus = PERFECT

    def __post_init__(self) -> None:
        positive("steps", self.steps)

    def store(self, task: Any, key: jax.Array | None) -> Memory:
        """What the hippocampus holds of the task."""
        return self.hippocampus.store(
            task, None if key is None else jax.random.fold_in(key, MEMORY)
        )

    def step(self, phi: PyTree, theta: Any, lam: PyTree, memory: Memory, t: Any, beta: Any) -> Any:
        """phi after the replays of step `t`; `lam` is lambda, one a weight."""

        def replayed(phi: PyTree) -> jax.Array:
            items = self.hippocampus.replay(memory, t, beta)
            return sum((gain * self.loss(phi, item) for item, gain in items), jnp.zeros(()))

        rate = self.rate(t) if callable(self.rate) else self.rate
        return jax.tree.map(
            lambda p, g, o, s: p - rate * (g + 2 * s * (p - o)),
            phi,
            jax.grad(replayed)(phi),
            theta[0],
            lam,
        )

    def __call__(self, loss: Any, phi0: PyTree) -> Solution:
        """One whole phase from `phi0`, of `loss.theta`, `loss.z` and `loss.beta`."""
        memory, lam = self.store(loss.z, loss.key), strengths(loss.theta, phi0)

        def step(phi: PyTree, t: jax.Array) -> tuple[PyTree, None]:
            return self.step(phi, loss.theta, lam, memory, t, loss.beta), None

        phi, _ = jax.lax.scan(step, phi0, jnp.arange(self.steps))
        return Solution(phi, None, self.steps)


def strengths(theta: Any, phi: PyTree) -> PyTree:
    """lambda, one a weight, of theta = (omega, log_lam)."""
    return jax.tree.map(jnp.exp, broadcast(theta[1], phi))
