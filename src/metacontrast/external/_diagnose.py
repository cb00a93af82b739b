"""Whether the meta-gradient of a learner outside JAX is to be trusted."""

from __future__ import annotations

import jax
import numpy as np

from .._arrays import Numbers, flat
from .._diagnosis import Diagnosis, conclude
from .._directional import Judge, change
from .._types import Learned, PyTree
from ._rule import ContrastOutside, Learner, contrast_from, free_phase, real_stencil
from ._unseen import refuse_unseen

# Learners outside JAX stop at tolerances of their own: differences are taken of changes of a
# hundredth of the meta-loss.
EPS = 1e-6


def diagnose(learner: Learner, theta: Learned, task: PyTree, rule: ContrastOutside) -> Diagnosis:
    """Say whether the meta-gradient of one task is to be trusted, and what to do if not.

    The same judge as in JAX (see `metacontrast.diagnose`): the meta-loss `L_out(phi_0)` of free
    phases at displaced thetas is differenced along the estimate, and across it. It takes 11 free
    phases, 15 where the estimate is trusted, and two meta-gradients: of beta and of half of it.

    Not known are the effect of round-off, and that of the random numbers of a learner, which must
    draw the same ones at each call: `precision`, `keys` and `proposal` are None.

    Args:
        learner: what is learned and how.
        theta: meta-parameters, any tree of floating numbers or NumPy arrays.
        task: handed to the learner.
        rule: see `meta_gradient`.

    Raises:
        ValueError, TypeError: as `meta_gradient` does.

    Example: a nudge that is small beside how the losses bend, and one that is not.
        >>> import metacontrast as mc
        >>> pull = np.array([1.0, 50.0])
        >>> learner = Learner(
        ...     solve=lambda theta, task, beta, start: (
        ...         (task + pull * theta + beta) / (1 + pull + beta)
        ...     ),
        ...     inner=lambda phi, theta, task: (
        ...         np.sum((phi - task) ** 2) + pull @ (phi - theta) ** 2
        ...     ),
        ...     outer=lambda phi, theta, task: np.sum((phi - 1.0) ** 2),
        ... )
        >>> theta, task = np.array([2.0, 0.5]), np.array([3.0, 0.0])
        >>> for beta in (0.01, 100.0):
        ...     found = diagnose(learner, theta, task, mc.Contrastive(beta))
        ...     print(found.verdict, round(found.error, 2))
        trust 0.0
        do not trust 0.89
    """
    real_stencil(rule)
    phi_0, unseen = free_phase(learner, theta, task)
    refuse_unseen(unseen)
    estimate = lambda rule: contrast_from(learner, theta, task, rule, phi_0)
    meta, half = estimate(rule), estimate(rule.scaled(0.5))
    d, here = flat(meta.by_theta), flat(theta)

    def at(way: Numbers) -> tuple[Numbers, float]:
        there = _put(theta, here + way)
        phi = learner.solve(there, task, 0.0, None)
        return flat(there) - here, float(learner.outer(phi, there, task))

    kinds = [np.asarray(leaf).dtype for leaf in jax.tree.leaves(theta)]
    coarsest = max(float(np.finfo(kind).eps) for kind in kinds)
    return conclude(
        rule,
        Judge(at, here, float(meta.value), EPS, coarsest).look(d),
        flags=meta.aux["flags"].raised(),
        linear_residual=meta.aux.get("linear_residual"),
        nudge=change(flat(half.by_theta), d),
        outside=True,
    )


def _put(tree: PyTree, row: Numbers) -> PyTree:
    """These numbers in a tree like this one: of its structure, shapes and types."""
    leaves, structure = jax.tree.flatten(tree)
    parts = np.split(row, np.cumsum([np.size(x) for x in leaves])[:-1])
    new = [
        part.reshape(np.shape(x)).astype(np.asarray(x).dtype)[()]
        for x, part in zip(leaves, parts, strict=True)
    ]
    return jax.tree.unflatten(structure, new)
