"""Warm start: one long task, whose phases go on from one meta-step to the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ._contrastive import Contrastive
from ._implicit import Implicit
from ._linear_nudge import LinearNudge
from ._problem import Problem, PyTree
from ._solve import Solution, Solver, settle


class Phases(NamedTuple):
    """What is carried: the meta-steps taken, and `(phi, solver's state)` of every phase."""

    step: jax.Array
    phases: tuple[tuple[PyTree, PyTree], ...]


class Warm(NamedTuple):
    """`init(theta, task, key) -> state`, and the estimator's `value_and_grad` with that state.

    `value_and_grad(state, theta, task, key) -> ((value, diagnostics), meta-gradient, state)`.
    """

    init: Callable[..., Phases]
    value_and_grad: Callable[..., Any]


def warm(problem: Problem, solve: Solver, estimator: Any, *, fresh: bool = False) -> Warm:
    """An estimator whose phases start where they stopped at the meta-step before.

    `problem.init` is used once, by `init`, which learns as one cold meta-step would. After that the
    free phase goes on from its own phi and every nudged phase from its own, each with its
    optimiser's state, while theta moves on: a few steps a phase, or a single one, will do. With

        solve=descend(optax.sgd(a), 1),   estimator=lambda t: Contrastive(beta=b / (1 + t) ** c)

    this is F2SA, `lambda = 1 / beta`, the single-loop first-order bilevel method (Kwon, Kwon,
    Wright, Nowak, 2023); with `optax.sgd(a, momentum=m)` inside and outside, a momentum variant of
    it (heavy-ball, in place of their recursive variance reduction, which without sampling changes
    nothing). The nudged phase must keep up with theta: its lag is divided by beta.

    Args:
        problem: what is learned. Where it samples, give each meta-step its own key.
        solve: how it is learned.
        estimator: `Contrastive`, `LinearNudge` or `Implicit`; or a function from the number of
            meta-steps taken (traced under `jit`) to one, always with the same scheme: a schedule
            for beta.
        fresh: start the nudged phases where the free one has got to in this meta-step, not where
            they stopped at the last. For losses with many minima, in which phases that go their own
            ways drift apart, and their distance has no more to do with the nudge.

    Raises:
        TypeError: another estimator; those that look at where learning started make no sense here.
        ValueError: `beta="auto"`.

    Example: the penalty at which a ridge of one weight, `phi = 2 / (1 + theta^2)`, comes to be 1.
        >>> import jax, jax.numpy as jnp, optax, metacontrast as mc
        >>> problem = mc.Problem(
        ...     init=lambda theta, task: jnp.zeros(()),
        ...     inner=lambda phi, theta, task: (phi - task) ** 2 + theta**2 * phi**2,
        ...     outer=lambda phi, theta, task: (phi - 1.0) ** 2,
        ... )
        >>> single_loop = mc.warm(
        ...     problem, mc.descend(optax.sgd(0.1), 1), mc.Contrastive(beta=0.1)
        ... )
        >>> theta, task = jnp.array(0.5), jnp.array(2.0)
        >>> state, step = single_loop.init(theta, task), jax.jit(single_loop.value_and_grad)
        >>> for _ in range(400):
        ...     _, grad, state = step(state, theta, task)
        ...     theta = theta - 0.1 * grad
        >>> round(float(theta), 2)
        1.0
    """
    at = estimator if callable(estimator) else lambda step: estimator

    def run(phases: Any, step: Any, theta: PyTree, task: PyTree, key: Any) -> Any:
        rule = at(step)
        if not isinstance(rule, Contrastive | LinearNudge | Implicit):
            raise TypeError(
                f"estimator: must be Contrastive, LinearNudge or Implicit, not {rule!r}."
            )
        if isinstance(rule, Contrastive) and isinstance(rule.beta, str):
            raise ValueError(
                "beta: 'auto' tries other phases than those that are carried; ask "
                "accuracy.suggest_beta once, and give the number."
            )
        record = _Record(phases)
        if not isinstance(rule, Implicit):
            nudged = rule.nudged or solve
            rule = replace(rule, nudged=nudged if fresh else record.resumed(nudged))
        out, grad = rule.value_and_grad(problem, record.resumed(solve), theta, task, key)
        return out, grad, Phases(jnp.asarray(step), tuple(record.after))

    def init(theta: PyTree, task: PyTree, key: jax.Array | None = None) -> Phases:
        return run(None, 0, theta, task, key)[2]

    def value_and_grad(
        state: Phases, theta: PyTree, task: PyTree, key: jax.Array | None = None
    ) -> Any:
        out, grad, after = run(state.phases, state.step, theta, task, key)
        return out, grad, after._replace(step=state.step + 1)

    return Warm(init, value_and_grad)


class _Record:
    """Hands the phases of one meta-step, in the order they are run, what they left at the last."""

    def __init__(self, before: Any) -> None:
        self.before = before
        self.after: list[tuple[PyTree, PyTree]] = []

    def resumed(self, solve: Solver) -> Solver:
        def run(loss: Any, phi0: PyTree, state: PyTree = None) -> Solution:
            if self.before is not None:
                phi0, state = self.before[len(self.after)]
            found = settle(solve, loss, phi0, state)
            self.after.append((found.phi, found.state))
            return found

        run.holomorphic = getattr(solve, "holomorphic", False)  # type: ignore[attr-defined]
        return run
