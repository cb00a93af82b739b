"""Penalised linear models, fitted to round-off by Newton's method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations_with_replacement
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float
from scipy.linalg import cho_factor, cho_solve

from ._likelihood import Likelihood

Phi: TypeAlias = Float[np.ndarray, "outputs columns"]
Matrix: TypeAlias = Any  # of NumPy, or sparse of SciPy

MOST_STEPS = 100
# Squares of lengths in the metric of the curvature, beside the loss: what steps end at, and what
# round-off may hold them up at.
SMALL, ROUNDED = 1e-27, 1e-22
SHRINKS = 0.1  # under an old curvature a step must be so much smaller than the one before


@dataclass(frozen=True, eq=False)
class Rows:
    """Examples, one a row."""

    x: Matrix
    y: np.ndarray

    @cached_property
    def gram(self) -> np.ndarray:
        """`x' x`."""
        return gram(self.x, np.ones(len(self.y)))


class Part(NamedTuple):
    """Examples, and how much each counts."""

    rows: Rows
    weight: np.ndarray | float = 1.0


@dataclass(frozen=True)
class Penalised:
    """`sum_i w_i l(x_i . phi, y_i)` over some sets of rows, plus `sum_j lam_j |phi_j|^2`.

    Args:
        likelihood: l.
        parts: the sets of rows.
        lam: one a column; 0 for that of the intercept.
    """

    likelihood: Likelihood
    parts: Sequence[Part]
    lam: np.ndarray

    def value(self, phi: Phi) -> float:
        """The loss."""
        fitted = (
            float(np.sum(weight * self.likelihood.losses(rows.x @ phi.T, rows.y)))
            for rows, weight in self.parts
        )
        return sum(fitted) + float(np.sum(self.lam * phi**2))

    def slope(self, phi: Phi) -> Phi:
        """Its gradient."""
        slope = 2 * self.lam * phi
        for rows, weight in self.parts:
            errors = self.likelihood.errors(rows.x @ phi.T, rows.y)
            slope = slope + (rows.x.T @ (np.reshape(weight, (-1, 1)) * errors)).T
        return slope

    def curvature(self, phi: Phi) -> np.ndarray:
        """Its Hessian, (outputs * columns)^2, of phi row by row."""
        outputs, columns = phi.shape
        blocks = np.zeros((outputs, columns, outputs, columns))
        for part in self.parts:
            self._add(blocks, part, phi)
        own = np.arange(outputs)
        blocks[own, :, own] += 2 * np.diag(self.lam)
        return self._held_up(blocks).reshape(outputs * columns, outputs * columns)

    def _add(self, blocks: np.ndarray, part: Part, phi: Phi) -> None:
        rows, weight = part
        if self.likelihood.is_quadratic and not np.ndim(weight):
            blocks[0, :, 0] += 2 * weight * rows.gram
            return
        bend = self.likelihood.curvature(rows.x @ phi.T, rows.y)
        bend = bend * np.reshape(weight, (-1, 1, 1))
        for i, j in combinations_with_replacement(range(len(blocks)), 2):
            block = gram(rows.x, bend[:, i, j])
            blocks[i, :, j] += block
            if i != j:
                blocks[j, :, i] += block

    def _held_up(self, blocks: np.ndarray) -> np.ndarray:
        """Of several scores what all have in common changes no loss: their intercepts' sum is 0."""
        outputs = len(blocks)
        for j in np.flatnonzero(self.lam == 0) if outputs > 1 else ():
            blocks[:, j, :, j] += 1.0
        return blocks


def gram(x: Matrix, weight: np.ndarray) -> np.ndarray:
    """`x' diag(weight) x`, of arrays or sparse matrices."""
    if isinstance(x, np.ndarray):
        return x.T @ (weight[:, None] * x)
    return (x.T @ x.multiply(weight[:, None])).toarray()


def minimiser(loss: Penalised, phi: Phi) -> Phi:
    """The phi of the least loss, from a start.

    Newton's steps, halved until the loss falls; the curvature is computed again where steps under
    the last one do not shrink fast enough.
    """
    factor, last = None, np.inf
    value, slope = loss.value(phi), loss.slope(phi)
    for _ in range(MOST_STEPS):
        if factor is None:
            factor, last = cho_factor(_positive(loss.curvature(phi))), np.inf
        step = cho_solve(factor, slope.ravel()).reshape(phi.shape)
        # Twice what is left to fall, as far as the curvature tells: the square of a length.
        fall = float(np.sum(step * slope))
        if fall <= SMALL * abs(value):
            return phi - step
        if fall > SHRINKS * last:
            if fall <= ROUNDED * abs(value):  # it shrinks no more
                return phi
            factor = None
            continue
        t, new = _step_length(loss, phi, step, value, fall)
        if t == 0:
            return phi
        phi, value = phi - t * step, new
        slope, last = loss.slope(phi), fall
        if t < 1:
            factor = None
    return phi


def _step_length(
    loss: Penalised, phi: Phi, step: Phi, value: float, fall: float
) -> tuple[float, float]:
    """The first of 1, 1/2, 1/4 ... by which the loss falls, and the loss there; 0 if none is."""
    t = 1.0
    while t > 1e-10:
        new = loss.value(phi - t * step)
        if new <= value - 1e-4 * t * fall + 1e-12 * abs(value):
            return t, new
        t /= 2
    return 0.0, value


def _positive(curvature: np.ndarray) -> np.ndarray:
    """With a diagonal so much larger that round-off makes no curvature negative."""
    n = len(curvature)
    diagonal = np.arange(n)
    curvature[diagonal, diagonal] *= 1 + 4 * n * np.finfo(float).eps
    return curvature
