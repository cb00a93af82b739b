"""Learners without gradients, of which nothing is known but values of the loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy.optimize import minimize

from .._problem import PyTree
from .._solve import positive
from ._rule import Learner

Minimise = Callable[[Callable[[np.ndarray], float], np.ndarray], np.ndarray]


def black_box(
    init: Callable[[PyTree, PyTree], np.ndarray],
    inner: Callable[[np.ndarray, PyTree, PyTree], float],
    outer: Callable[[np.ndarray, PyTree, PyTree], float],
    minimise: Minimise,
    slope: Callable[..., PyTree] | None = None,
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
        >>> from metacontrast.external import value_and_grad
        >>> learner = black_box(
        ...     init=lambda theta, task: np.zeros(1),
        ...     inner=lambda phi, theta, task: (phi[0] - task) ** 2 + (phi[0] - theta) ** 2,
        ...     outer=lambda phi, theta, task: (phi[0] - 1.0) ** 2,
        ...     minimise=nelder_mead(),
        ... )
        >>> rule = mc.Contrastive(beta=0.1, scheme="symmetric")
        >>> (value, _), grad = value_and_grad(learner, 1.0, 3.0, rule)
        >>> round(float(value), 3), round(float(grad), 2)
        (1.0, 1.0)
    """
    return Learner(partial(_solve, init, inner, outer, minimise), inner, outer, slope)


def _solve(
    init: Any, inner: Any, outer: Any, minimise: Minimise, theta: Any, task: Any, beta: Any, at: Any
) -> np.ndarray:
    loss = Learner(lambda *_: None, inner, outer).loss
    start = init(theta, task) if at is None else at
    return minimise(lambda phi: float(loss(phi, theta, task, beta)), np.asarray(start, float))


def nelder_mead(tol: float = 1e-10, max_values: int = 10_000) -> Minimise:
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
    if not tol > 0:
        raise ValueError(f"tol: must be positive, not {tol}; try 1e-10.")
    positive("max_values", max_values)
    return _NelderMead(tol, max_values)


@dataclass(frozen=True)
class _NelderMead:
    tol: float
    max_values: int

    def __call__(self, loss: Callable[[np.ndarray], float], start: np.ndarray) -> np.ndarray:
        options = {"xatol": self.tol, "fatol": self.tol, "maxfev": self.max_values}
        options["maxiter"] = self.max_values
        found = minimize(loss, start, method="Nelder-Mead", options=options)
        if not found.success:
            raise ArithmeticError(
                f"max_values: no convergence in {self.max_values} values of the loss; allow more, "
                "or ask for less with a larger tol."
            )
        return np.asarray(found.x)
