"""Which beta: trial nudges, each judged against an extrapolation of all."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ._check import shapes
from ._contrast import Encoded, encoded
from ._problem import Loss, Problem, PyTree, is_free
from ._solve import Solution, Solver, positive, settle
from ._stencil import DEFAULT_ORDER
from ._trial import Phase, Trial, unit

# The ladder, in units of beta: from where the nudge rules down to below the best beta of phases
# that are exact to round-off, which is about eps^(1/(p+1)).
TOP, BELOW = 3.0, 0.03
LEFT = 0.1  # of a phase's share of the error, that polishing is not trusted to have removed
ELIMINATED = 3  # powers of beta in the error, by extrapolation
NEAR = 0.8  # how far the second half of the trials reaches, in rungs of the first
LEAST = 10


class Suggestion(NamedTuple):
    """A nudge and what to expect of it: arrays, so that it can be had under `jit` and `vmap`.

    Attributes:
        beta: the best of the trials; NaN if every one of them diverged.
        error: the expected `|estimate - meta-gradient|` there.
        relative: the same over the size of the meta-gradient.
        betas: all trials, largest first.
        errors: what is expected at each of them; to plot against `betas`, the U-shape.
    """

    beta: jax.Array
    error: jax.Array
    relative: jax.Array
    betas: jax.Array
    errors: jax.Array


def suggest_beta(
    problem: Problem,
    solve: Solver,
    theta: PyTree,
    task: PyTree,
    scheme: str = "forward",
    order: int | None = None,
    nudged: Solver | None = None,
    key: jax.Array | None = None,
    trials: int = 16,
) -> Suggestion:
    """Choose the nudge of `Contrastive(beta, scheme, order, nudged)` for this problem and learner.

    The error of the estimate D(beta) is `c1 beta^p` from the nudge, plus `c2 delta / beta` from
    phases that stop at a distance delta from their minimisers; in float32 round-off is a good part
    of delta. Neither constant is known, so both are measured:

    1. On a geometric ladder of betas each phase is run, and then *polished*: moved by one or two
       Newton steps, `phi - H^-1 dL/dphi`, solved by conjugate gradient with differences of
       gradients. That is its residual divided by the curvature in the residual's direction. How
       much D changes by it is the phases' share of the error; what is left of D errs by
       `c1 beta^p` alone.
    2. The polished D are extrapolated to beta = 0 from all neighbouring rungs (Richardson). Where
       the extrapolations agree best, neither error rules: that one is the reference (Ridders).
    3. Half of the trials are spent around the best rung of the ladder. The error of a trial is its
       distance from the reference; the beta of the smallest is suggested.

    First derivatives only; it costs `trials` times the nudged phases of one meta-gradient, and at
    most 200 gradients to polish each phase of the ladder. For meta-training, do it once and give
    the number to `Contrastive`; `Contrastive(beta="auto")` does it anew for every task and
    meta-step.

    Args:
        problem: what is learned.
        solve: how it is learned; traceable by JAX.
        theta: the meta-parameters.
        task: one task.
        scheme: "forward" or "symmetric".
        order: of the scheme, as in `Contrastive`.
        nudged: solver of the nudged phases. Default: `solve`.
        key: for learners that draw random numbers.
        trials: how many betas are tried, at least 10.

    Raises:
        ValueError: fewer than 10 trials, or a scheme that is not one of the two.

    Reference: Richardson, 1911; Ridders, 1982; the trade-off: Zucchet et al., 2022.

    Example: a learner that stops at 1% of the way; error ~ beta/2 + 0.01/beta, in units.
        >>> import jax, jax.numpy as jnp, optax, metacontrast as mc
        >>> problem = mc.Problem(
        ...     init=lambda theta, task: theta,
        ...     inner=lambda phi, theta, task: (phi - task) ** 2 + (phi - theta) ** 2,
        ...     outer=lambda phi, theta, task: phi**2,
        ... )
        >>> solve = mc.descend(optax.sgd(0.05), steps=20)
        >>> found = suggest_beta(problem, solve, jnp.array(1.0), jnp.array(3.0))
        >>> estimator = mc.Contrastive(float(found.beta))
        >>> grad = jax.grad(mc.meta_loss(problem, solve, estimator))(jnp.array(1.0), jnp.array(3.0))
        >>> bool(jnp.abs(grad - 2.0) < 2 * found.error)
        True
    """

    def phase(loss: Any, free: Solution) -> PyTree:
        return free.phi if is_free(loss.beta) else settle(nudged or solve, loss, free.phi).phi

    _checked(scheme, trials)
    shapes(problem, theta, task)
    seen = encoded(problem, theta, task)
    loss = Loss(problem, theta, seen.z, 0.0, key)
    free = settle(solve, loss, problem.init(theta, task))
    return choose(seen, loss, free, phase, scheme, order, trials)


def choose(
    seen: Encoded,
    loss: Loss,
    free: Solution,
    phase: Phase,
    scheme: str,
    order: int | None,
    trials: int = 16,
) -> Suggestion:
    """`suggest_beta` once the free phase has been run; `phase(loss, free) -> phi` runs the others.

    What `Contrastive(beta="auto")` calls.
    """
    trial = Trial(seen, loss, free, phase, scheme, order)
    rungs, powers = trials - trials // 2, _powers(scheme, order)
    bottom = BELOW * float(jnp.finfo(_type(free.phi)).eps) ** (1 / (powers[0] + 1))
    ratio = (TOP / bottom) ** (1 / (rungs - 1))
    steps = ratio ** -np.arange(rungs), ratio ** np.linspace(NEAR, -NEAR, trials // 2)
    ladder = unit(loss, free.phi) * TOP * steps[0].astype(_type(free.phi))
    rough, polished = jax.lax.map(trial.both, ladder)
    reference = _extrapolated(rough, polished, [ratio**-power for power in powers])
    errors = _errors(rough, reference)
    around = ladder[jnp.argmin(errors)] * steps[1].astype(_type(free.phi))
    betas = jnp.concatenate([ladder, around])
    errors = jnp.append(errors, _errors(jax.lax.map(trial.rough, around), reference))
    falling = jnp.argsort(-betas)
    least = jnp.min(errors)
    beta = jnp.where(jnp.isfinite(least), betas[jnp.argmin(errors)], jnp.nan)
    size = jnp.linalg.norm(reference)
    return Suggestion(beta, least, least / size, betas[falling], errors[falling])


def _type(phi: PyTree) -> Any:
    return jnp.result_type(*jax.tree.leaves(phi))


def _powers(scheme: str, order: int | None) -> list[int]:
    """The powers of beta in the error; of a symmetric difference they are even."""
    p = DEFAULT_ORDER[scheme] if order is None else order
    return [p + i * (2 if scheme == "symmetric" else 1) for i in range(ELIMINATED)]


def _errors(estimates: jax.Array, reference: jax.Array) -> jax.Array:
    distance = jnp.linalg.norm(estimates - reference[None], axis=1)
    return jnp.where(jnp.isfinite(distance), distance, jnp.inf)


def _extrapolated(rough: jax.Array, polished: jax.Array, shrinks: list[float]) -> jax.Array:
    """The limit at beta = 0: of all extrapolations, the one that least differs from the last.

    Each of `shrinks`, the ratios at which a power of beta falls from rung to rung, takes one power
    out of the error, at the price of one rung.
    """
    phases = jnp.linalg.norm(rough - polished, axis=1)
    table, limits, doubts = polished, [], []
    for used, shrink in enumerate(shrinks, start=2):
        table = (table[1:] - shrink * table[:-1]) / (1 - shrink)
        change = jnp.linalg.norm(table[1:] - table[:-1], axis=1)
        doubts.append(change + LEFT * phases[used:])
        limits.append(table[1:])
    doubt = jnp.concatenate(doubts)
    best = jnp.argmin(jnp.where(jnp.isfinite(doubt), doubt, jnp.inf))
    return jnp.concatenate(limits)[best]


def _checked(scheme: str, trials: int) -> None:
    positive("trials", trials)
    if trials < LEAST:
        raise ValueError(f"trials: at least {LEAST} are needed to extrapolate, not {trials}.")
    if scheme not in ("forward", "symmetric"):
        raise ValueError(
            f"scheme: beta can be chosen for 'forward' and 'symmetric', not for {scheme!r}; the "
            "holomorphic scheme is exact to round-off over a wide range of beta: try 0.1."
        )
