"""Which estimator tunes this model: by whether its training comes to rest."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

import jax

from .._configuration import Configuration
from .._diagnose import AT_MINIMUM, CONVERGED, diagnose, followed
from .._diagnosis import LENGTH, Diagnosis
from .._directional import REFUSED
from .._estimator._base import Estimator
from .._loss import Loss
from .._meta_loss import meta_gradient
from .._solver._base import Solver
from .._solver._function import solve_inner
from .._tree import norm
from .._types import Key, PyTree, Scalar
from .._warn import warn
from ..train._diagnosed import VARIABLE


class Choice(NamedTuple):
    """An estimator, why it was taken, and what `diagnose` says of it; None if it was not asked."""

    estimator: Estimator
    why: str
    diagnosis: Diagnosis | None = None


def choose(
    run: Configuration, solver: Solver, given: Estimator | None, is_diagnosed: bool
) -> Choice:
    """The estimator given, or that which the end of a training asks for; diagnosed."""
    choice = _measured(run, solver) if given is None else Choice(given, "it was given.")
    if not is_diagnosed or os.environ.get(VARIABLE) == "off":
        return choice
    found = diagnose(run.problem, solver, choice.estimator, run.theta, run.z, run.key)
    if choice.estimator is AT_MINIMUM and (found.flags or not found.error < LENGTH):
        # A place of rest that is no minimum: its direction may be right here, and not for long.
        told = ", ".join(found.flags) or "the length of the contrast"
        return Choice(followed(run), f"training comes to rest at no minimum: {told}.", found)
    if found.verdict == "trust":
        return choice._replace(diagnosis=found)
    better = found.proposal
    is_taken = given is None and better is not None and better.cosine >= REFUSED
    if is_taken and better is not None and not found.cosine >= better.cosine:
        why = f"{type(choice.estimator).__name__} is not to be trusted here."
        return Choice(better.estimator, why, found)
    warn(f"the first meta-gradient, {found.verdict}: {found.advice}")
    return choice._replace(diagnosis=found)


def _measured(run: Configuration, solver: Solver) -> Choice:
    if run.problem.sample is not None:
        return Choice(followed(run), "training draws batches or noise, and does not come to rest.")
    at = run.theta, run.z, run.key
    left, nudge = map(float, _slopes(run, solver)(*at))
    measured = f"the slope that training leaves is {left / (nudge or 1.0):.2g} of the outer one"
    if not left <= CONVERGED * nudge:
        return Choice(followed(run), f"{measured}: it has not come to rest.")
    try:
        jax.eval_shape(meta_gradient(run.problem, solver, AT_MINIMUM), *at)
    except (TypeError, ValueError):  # theta is in no loss: rates of the optimiser, say
        return Choice(followed(run), "theta acts through more than the losses.")
    return Choice(AT_MINIMUM, f"{measured}: it has come to rest.")


def _slopes(run: Configuration, solver: Solver) -> Callable[..., tuple[Scalar, Scalar]]:
    """Of the inner and of the outer loss, where training ends."""

    @jax.jit
    def slopes(theta: PyTree, z: PyTree, key: Key) -> tuple[Scalar, Scalar]:
        end = solve_inner(run.problem, solver, theta, z, key)
        loss = Loss(run.problem, theta, z, key).with_state(end.model)
        return norm(jax.grad(loss.inner)(end.phi)), norm(jax.grad(loss.outer)(end.phi))

    return slopes
