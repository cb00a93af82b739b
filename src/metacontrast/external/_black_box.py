"""Learners without gradients, of which nothing is known but values of the loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, TypeAlias

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize

from .._must import Count, positive
from .._types import PyTree
from ._rule import Learner, LossFunction, augmented

Vector: TypeAlias = Float[np.ndarray, " n"]
Minimise: TypeAlias = Callable[[Callable[[Vector], float], Vector], Vector]


def black_box(
    init: Callable[[PyTree, PyTree], Vector],
    inner: LossFunction,
    outer: LossFunction,
    minimise: Minimise,
    slope: Callable[[PyTree, PyTree, PyTree, float], PyTree] | None = None,
) -> Learner:
    """A learner that minimises its loss by any function of values: simplex, evolution, annealing.

    Every phase minimises the same way, the nudged ones from `phi_0`. A random `minimise` must draw
    the same numbers at each call, or its noise is divided by beta.

    Args:
        init: `(theta, task) -> phi`, a vector, where the free phase starts.
        inner: `(phi, theta, task) -> number`.
        outer: `(phi, theta, task) -> number`.
        minimise: `(f, start) -> phi`, for example `nelder_mead()`.
        slope: see `Learner`.

    Example:
        >>> import metacontrast as mc
        >>> from metacontrast.external import meta_gradient
        >>> learner = black_box(
        ...     init=lambda theta, task: np.zeros(1),
        ...     inner=lambda phi, theta, task: (phi[0] - task) ** 2 + (phi[0] - theta) ** 2,
        ...     outer=lambda phi, theta, task: (phi[0] - 1.0) ** 2,
        ...     minimise=nelder_mead(),
        ... )
        >>> rule = mc.Contrastive(beta=0.1, scheme="symmetric")
        >>> meta = meta_gradient(learner, 1.0, 3.0, rule)
        >>> round(meta.value, 3), round(float(meta.by_theta), 2)
        (1.0, 1.0)
    """
    return Learner(partial(_solve, init, inner, outer, minimise), inner, outer, slope)


def _solve(
    init: Callable[[PyTree, PyTree], Vector],
    inner: LossFunction,
    outer: LossFunction,
    minimise: Minimise,
    theta: PyTree,
    task: PyTree,
    beta: float,
    start: Vector | None,
) -> Vector:
    loss = augmented(inner, outer, beta)
    start = init(theta, task) if start is None else start
    return minimise(lambda phi: float(loss(phi, theta, task)), np.asarray(start, float))


def nelder_mead(
    tol: Annotated[float, positive("try 1e-10")] = 1e-10, max_values: Count = 10_000
) -> Minimise:
    """The simplex search of Nelder and Mead (1965), of SciPy, for a handful of weights.

    It compares values of the loss, whose round-off hides where its minimum lies to within about
    `sqrt(eps)` of its scale, 1e-8, whatever `tol` says. Errors of the rule are that divided by
    beta: take beta of 0.01 or more, with a symmetric or a higher-order scheme.

    Args:
        tol: on the size of the simplex and on the differences of values at its corners.
        max_values: how often the loss may be evaluated.

    Raises:
        ArithmeticError: when run, if it has not converged by then.
    """
    return _NelderMead(tol, max_values)


@dataclass(frozen=True)
class _NelderMead:
    tol: float
    max_values: int

    def __call__(self, loss: Callable[[Vector], float], start: Vector) -> Vector:
        options = {"xatol": self.tol, "fatol": self.tol, "maxfev": self.max_values}
        options["maxiter"] = self.max_values
        result = minimize(loss, start, method="Nelder-Mead", options=options)
        if not result.success:
            raise ArithmeticError(
                f"max_values: no convergence in {self.max_values} values of the loss; allow more, "
                "or ask for less with a larger tol."
            )
        return np.asarray(result.x)
