"""Which beta: trial nudges, each judged against an extrapolation of all."""

from __future__ import annotations

from typing import Annotated, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._check import check_shapes
from .._estimator._base import free_phase
from .._linear import Vector
from .._loss import Loss
from .._must import Count, Must
from .._problem import Problem
from .._solver._base import SolverLike
from .._solver._function import as_solver
from .._stencil import Scheme, order_of
from .._types import Key, PyTree
from ._trial import Trial, natural_unit, polished

# The ladder, in units of beta: from where the nudge rules down to below the best beta of phases
# that are exact to round-off, which is about eps^(1/(p+1)).
TOP, BELOW = 3.0, 0.03
LEFT = 0.1  # of a phase's share of the error, that polishing is not trusted to have removed
ELIMINATED = 3  # powers of beta in the error, by extrapolation
NEAR = 0.8  # how far the second half of the trials reaches, in rungs of the first
LEAST = 10
Trials: TypeAlias = Annotated[
    int, Must(f"at least {LEAST}", lambda n: n >= LEAST, "fewer cannot be extrapolated")
]


class Suggestion(NamedTuple):
    """A nudge and what to expect of it: arrays, so that it can be had under `jit` and `vmap`.

    Attributes:
        beta: the best of the trials; NaN if every one of them diverged.
        error: the expected `|estimate - meta-gradient|` there.
        relative: the same over the size of the meta-gradient.
        betas: all trials, largest first.
        errors: what is expected at each of them; to plot against `betas`, the U-shape.
    """

    beta: Float[Array, ""]
    error: Float[Array, ""]
    relative: Float[Array, ""]
    betas: Float[Array, " trials"]
    errors: Float[Array, " trials"]


def suggest_beta(
    problem: Problem,
    solver: SolverLike,
    theta: PyTree,
    z: PyTree,
    scheme: Scheme = "forward",
    order: Count | None = None,
    nudged: SolverLike | None = None,
    key: Key | None = None,
    trials: Trials = 16,
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
    the number to `Contrastive`.

    Args:
        problem: what is learned.
        solver: how it is learned; traceable by JAX.
        theta: the meta-parameters.
        z: one task.
        scheme: "forward" or "symmetric".
        order: of the scheme, as in `Contrastive`.
        nudged: solver of the nudged phases. Default: `solver`.
        key: for problems that sample.
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
        >>> solver = mc.descend(optax.sgd(0.05), steps=20)
        >>> suggestion = suggest_beta(problem, solver, jnp.array(1.0), jnp.array(3.0))
        >>> rule = mc.Contrastive(float(suggestion.beta))
        >>> grad = jax.grad(mc.meta_loss(problem, solver, rule))(jnp.array(1.0), jnp.array(3.0))
        >>> bool(jnp.abs(grad - 2.0) < 2 * suggestion.error)
        True
    """
    _check_scheme(scheme)
    check_shapes(Loss(problem, theta, z, key))
    free_solver = as_solver(solver)
    nudged_solver = free_solver if nudged is None else as_solver(nudged)

    @jax.jit
    def choose(theta: PyTree, z: PyTree, key: Key | None) -> Suggestion:
        loss = Loss(problem, theta, z, key, by_z=False)
        phi_0 = free_phase(loss, free_solver).phi
        minimum = polished(loss, phi_0) if scheme == "forward" else None
        return _choose(Trial(loss, phi_0, minimum, nudged_solver, scheme, order), trials)

    return choose(theta, z, key)


def _choose(trial: Trial, trials: int) -> Suggestion:
    """The best of a ladder of betas and of those around its best rung."""
    rungs, powers = trials - trials // 2, _powers(trial.scheme, trial.order)
    dtype = jnp.result_type(*jax.tree.leaves(trial.phi_0))
    bottom = BELOW * float(jnp.finfo(dtype).eps) ** (1 / (powers[0] + 1))
    ratio = (TOP / bottom) ** (1 / (rungs - 1))
    steps = ratio ** -np.arange(rungs), ratio ** np.linspace(NEAR, -NEAR, trials // 2)
    ladder = natural_unit(trial.loss, trial.phi_0) * TOP * steps[0].astype(dtype)
    rough, better = jax.lax.map(trial.both, ladder)
    reference = _extrapolated(rough, better, [ratio**-power for power in powers])
    errors = _errors(rough, reference)
    around = ladder[jnp.argmin(errors)] * steps[1].astype(dtype)
    betas = jnp.concatenate([ladder, around])
    errors = jnp.append(errors, _errors(jax.lax.map(trial.rough, around), reference))
    falling = jnp.argsort(-betas)
    least = jnp.min(errors)
    beta = jnp.where(jnp.isfinite(least), betas[jnp.argmin(errors)], jnp.nan)
    size = jnp.linalg.norm(reference)
    return Suggestion(beta, least, least / size, betas[falling], errors[falling])


def _powers(scheme: Scheme, order: int | None) -> list[int]:
    """The powers of beta in the error; of a symmetric difference they are even."""
    p = order_of(scheme, order)
    return [p + i * (2 if scheme == "symmetric" else 1) for i in range(ELIMINATED)]


def _errors(estimates: Float[Array, "k n"], reference: Vector) -> Float[Array, " k"]:
    distance = jnp.linalg.norm(estimates - reference[None], axis=1)
    return jnp.where(jnp.isfinite(distance), distance, jnp.inf)


def _extrapolated(
    rough: Float[Array, "k n"], better: Float[Array, "k n"], shrinks: list[float]
) -> Vector:
    """The limit at beta = 0: of all extrapolations, the one that least differs from the last.

    Each of `shrinks`, the ratios at which a power of beta falls from rung to rung, takes one power
    out of the error, at the price of one rung.
    """
    phases = jnp.linalg.norm(rough - better, axis=1)
    table, limits, doubts = better, [], []
    for used, shrink in enumerate(shrinks, start=2):
        table = (table[1:] - shrink * table[:-1]) / (1 - shrink)
        change = jnp.linalg.norm(table[1:] - table[:-1], axis=1)
        doubts.append(change + LEFT * phases[used:])
        limits.append(table[1:])
    doubt = jnp.concatenate(doubts)
    best = jnp.argmin(jnp.where(jnp.isfinite(doubt), doubt, jnp.inf))
    return jnp.concatenate(limits)[best]


def _check_scheme(scheme: Scheme) -> None:
    if scheme not in ("forward", "symmetric"):
        raise ValueError(
            f"scheme: beta can be chosen for 'forward' and 'symmetric', not for {scheme!r}; the "
            "holomorphic scheme is exact to round-off over a wide range of beta: try 0.1."
        )
