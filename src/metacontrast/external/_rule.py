"""The contrastive rule for a learner that JAX cannot see into."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, TypeAlias

import jax

from .._arrays import is_narrow, norm, widened
from .._estimator._base import MetaGradient
from .._estimator._contrastive import Contrastive
from .._flags import APART
from .._must import advice, shown
from .._stencil import Stencil, stencil
from .._tree import kinds
from .._types import Learned, PyTree
from ._diagnostics import Ends, Phase, diagnose, eps_of, warn_of
from ._numerical import numerical_slope
from ._unseen import refuse_unseen, unseen_leaves

# `(theta, task, beta, start) -> phi`, and `(phi, theta, task) -> number`.
Solve: TypeAlias = Callable[[PyTree, PyTree, float, PyTree], PyTree]
LossFunction: TypeAlias = Callable[[PyTree, PyTree, PyTree], float]


@dataclass(frozen=True)
class Learner:
    """A learner outside JAX: how it is fitted, and the losses that it is fitted on.

    Args:
        solve: `(theta, task, beta, start) -> phi`, the minimiser of `L = L_in + beta L_out`.
            `start` is None in the free phase and `phi_0` in the nudged ones: warm-start there if
            you can, ignore it otherwise. phi is a tree of arrays.
        inner: `(phi, theta, task) -> number`.
        outer: `(phi, theta, task) -> number`.
        slope: `(phi, theta, task, beta) -> dL/dtheta` at fixed phi, of theta's structure. Default:
            by central differences, which costs two losses (but no fit) a meta-parameter.
        nudged: the same as `solve`, for the phases that start at `phi_0`. Default: `solve`.
        phi_slope: `(phi, theta, task, beta) -> dL/dphi`, of phi's structure. No gradient needs it:
            with it, phases that did not converge are flagged. Default: that is not known.

    Example: where to pull one number that averages the data.
        >>> learner = Learner(
        ...     solve=lambda theta, task, beta, start: (task + theta + beta) / (2 + beta),
        ...     inner=lambda phi, theta, task: (phi - task) ** 2 + (phi - theta) ** 2,
        ...     outer=lambda phi, theta, task: (phi - 1.0) ** 2,
        ... )
        >>> meta = meta_gradient(learner, 1.0, 3.0, Contrastive(beta=0.001))
        >>> meta.value, round(float(meta.by_theta), 2)  # phi_0 = 2, d phi_0 / d theta = 1/2
        (1.0, 1.0)
    """

    solve: Solve
    inner: LossFunction
    outer: LossFunction
    slope: Callable[[PyTree, PyTree, PyTree, float], PyTree] | None = None
    nudged: Solve | None = None
    phi_slope: Callable[[PyTree, PyTree, PyTree, float], PyTree] | None = None

    def loss(self, phi: PyTree, theta: PyTree, task: PyTree, beta: float) -> float:
        """The augmented loss `L_in + beta L_out`."""
        return augmented(self.inner, self.outer, beta)(phi, theta, task)

    def by_theta(self, phi: PyTree, theta: PyTree, task: PyTree, beta: float) -> PyTree:
        """`dL/dtheta` at fixed phi: as `slope` says, or by central differences."""
        if self.slope is not None:
            return self.slope(phi, theta, task, beta)
        return numerical_slope(lambda theta: self.loss(phi, theta, task, beta), theta)


def augmented(inner: LossFunction, outer: LossFunction, beta: float) -> LossFunction:
    """`L_in + beta L_out`; without a nudge L_out is not evaluated."""
    if not beta:
        return inner
    return lambda phi, theta, task: inner(phi, theta, task) + beta * outer(phi, theta, task)


# Not a call of the core's `contrast`, which runs its phases in JAX and differentiates the losses by
# one backward pass: here both are left to code that JAX cannot trace. The stencil is the same.
def meta_gradient(
    learner: Learner, theta: Learned, task: PyTree, rule: ContrastOutside
) -> MetaGradient:
    """The meta-gradient of a learner outside JAX, for one task.

    Learn freely, learn again with every nudge of the rule, each time from `phi_0`, and contrast:
    `sum_k w_k dL/dtheta(phi_{b_k}, b_k)`.

    Args:
        learner: what is learned and how.
        theta: meta-parameters, any tree of floating numbers or NumPy arrays.
        task: handed to the learner.
        rule: `Contrastive(beta, scheme, order, control=...)`.

    Returns:
        The value `L_out(phi_0)`, its gradient `by_theta` and the aux: `inner` and `outer` loss of
        the free phase; of each nudged phase `nudged_inner`, `nudged_outer` and its `distance` from
        `phi_0`; `linear_residual` where the learner has a `phi_slope`; and the `flags`, of which a
        `RuntimeWarning` tells if one is up. Of a learner without `phi_slope` it is not known
        whether its phases converged.

    Raises:
        ValueError: the holomorphic scheme, the linear nudge or a solver in the rule, which need
            JAX; a leaf of theta that changes neither loss: its gradient would be 0 whatever the
            true one is.
        TypeError: a rule that is no `Contrastive`.
    """
    real_stencil(rule)
    phi_0, unseen = free_phase(learner, theta, task)
    refuse_unseen(unseen)
    meta = contrast_from(learner, theta, task, rule, phi_0)
    warn_of([meta.aux["flags"]])
    return meta


def free_phase(learner: Learner, theta: PyTree, task: PyTree) -> tuple[PyTree, list[str]]:
    """`phi_0`, and the names of the leaves of theta on which no loss depends."""
    try:
        phi_0 = learner.solve(theta, task, 0.0, None)
    except (AttributeError, LookupError, TypeError) as error:
        if re.match(r"(theta|task)\b", str(error)):
            raise
        raise TypeError(
            f"learner: its solve does not take this `theta`, {kinds(theta)}, and `task`, "
            f"{shown(task)} ({type(error).__name__}: {error}); give it what it is written for."
        ) from error
    losses = lambda phi, theta: (
        float(learner.inner(phi, theta, task)),
        float(learner.outer(phi, theta, task)),
    )
    given = learner.slope
    slope = None if given is None else (lambda phi: given(phi, theta, task, 1.0))
    return phi_0, unseen_leaves(losses, slope, theta, phi_0)


def contrast_from(
    learner: Learner, theta: PyTree, task: PyTree, rule: Contrastive, phi_0: PyTree
) -> MetaGradient:
    """The nudged phases, from `phi_0`, and what they say."""
    points = real_stencil(rule)
    run = learner.solve if learner.nudged is None else learner.nudged
    nodes, weights = ([complex(x).real for x in part] for part in (points.nodes, points.weights))
    phases = []
    if points.free is not None:
        free = run(theta, task, 0.0, phi_0) if rule.control else phi_0
        phases = [Phase(float(points.free), 0.0, free)]
    phases += [Phase(w, b, run(theta, task, b, phi_0)) for w, b in zip(weights, nodes, strict=True)]
    slopes = [learner.by_theta(phase.phi, theta, task, phase.beta) for phase in phases]
    by_theta = jax.tree.map(
        lambda *g: sum(phase.weight * widened(x) for phase, x in zip(phases, g, strict=True)),
        *slopes,
    )
    given = learner.phi_slope
    ends = Ends(
        inner=lambda phi: learner.inner(phi, theta, task),
        outer=lambda phi: learner.outer(phi, theta, task),
        slope=None if given is None else (lambda phi, beta: given(phi, theta, task, beta)),
    )
    aux = diagnose(ends, phi_0, phases, by_theta)
    if _is_lost(phases, slopes, by_theta):
        aux["flags"] = aux["flags"]._replace(rounded=True)
    return MetaGradient(aux["outer"], by_theta, aux=aux)


def _is_lost(phases: Sequence[Phase], slopes: Sequence[PyTree], by_theta: PyTree) -> bool:
    """Whether narrow slopes were rounded by more than a part of their contrast, before it."""
    if not any(map(is_narrow, jax.tree.leaves(slopes[0]))):
        return False
    sizes = [abs(phase.weight) * norm(slope) for phase, slope in zip(phases, slopes, strict=True)]
    return not APART * eps_of(slopes[0]) * max(sizes) <= norm(by_theta)


ContrastOutside: TypeAlias = Annotated[
    Contrastive, advice("learners outside JAX are meta-learned by contrast: give Contrastive(beta)")
]


def real_stencil(rule: Contrastive) -> Stencil:
    """The stencil of a rule that a learner outside JAX can follow."""
    if rule.scheme == "holomorphic":
        raise ValueError(
            "scheme: learners outside JAX do not learn in complex numbers; choose forward, of a "
            "higher order if need be, or symmetric."
        )
    if rule.nudge != "outer":
        raise ValueError(
            f"nudge: learners outside JAX minimise L_in + beta L_out, and cannot be nudged as "
            f"{rule.nudge!r} says; leave nudge='outer'."
        )
    if rule.nudged is not None:
        raise ValueError(
            "nudged: the rule's is a solver in JAX; give that of a learner outside JAX to the "
            "learner, Learner(nudged=...), or in PyTorch to backward(nudged=...)."
        )
    assert rule.beta is not None  # as with any nudge but the linear one
    return stencil(rule.scheme, rule.order, float(rule.beta))
