"""Held-out losses of penalised linear models over folds of data, and their meta-gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float

from .._estimator._contrastive import Contrastive
from ..external._rule import Learner, contrast_from
from ._likelihood import Likelihood
from ._newton import Part, Penalised, Phi, Rows, minimiser

Per: TypeAlias = Literal["feature", "example"]
# Fits are exact to round-off, so that beta can be small; a positive one has a minimum always.
RULE = Contrastive(1e-5, order=2)


class Theta(NamedTuple):
    """What is learned: log penalties, one a feature, and log weights, one an example."""

    log_lam: Float[np.ndarray, " features"]
    log_weight: Float[np.ndarray, " n"]


class Fit(NamedTuple):
    """Which folds are learned from, and by which one that is judged."""

    learned: tuple[int, ...]
    held: int


@dataclass(frozen=True, eq=False)
class Folds:
    """A linear model, and its data in folds.

    Args:
        likelihood: of the model.
        outputs: how many scores it has.
        intercept: whether the last column of every x is one of ones, for an intercept.
        rows: the folds.
        index: of each fold, which examples it holds.
        per: what theta has one number for.
    """

    likelihood: Likelihood
    outputs: int
    intercept: bool
    rows: Sequence[Rows]
    index: Sequence[np.ndarray]
    per: Per
    ends: dict[Fit, Phi] = field(default_factory=dict)

    def fit(self, theta: Theta, fit: Fit) -> Phi:
        """The minimiser, which is where the next one of these folds starts."""
        start = self.ends.get(fit)
        columns = self.rows[0].x.shape[1]
        start = np.zeros((self.outputs, columns)) if start is None else start
        self.ends[fit] = minimiser(self._augmented(theta, fit, 0.0), start)
        return self.ends[fit]

    def losses(self, phi: Phi, fold: int) -> Float[np.ndarray, " rows"]:
        """Of each example of a fold."""
        rows = self.rows[fold]
        return self.likelihood.losses(rows.x @ phi.T, rows.y)

    def gradient(self, theta: Theta, fit: Fit, phi_0: Phi) -> np.ndarray:
        """Of the sum of the held-out losses, by the part of theta that is learned."""
        learner = Learner(
            solve=lambda theta, fit, beta, start: minimiser(
                self._augmented(theta, fit, beta), start
            ),
            inner=lambda phi, theta, fit: self._augmented(theta, fit, 0.0).value(phi),
            outer=lambda phi, theta, fit: float(np.sum(self.losses(phi, fit.held))),
            slope=self._by_theta,
        )
        return contrast_from(learner, theta, fit, RULE, phi_0).by_theta

    def _augmented(self, theta: Theta, fit: Fit, beta: float) -> Penalised:
        weighs = self.per == "example"
        parts = [
            Part(self.rows[f], np.exp(theta.log_weight[self.index[f]]) if weighs else 1.0)
            for f in fit.learned
        ]
        parts += [Part(self.rows[fit.held], beta)] if beta else []
        lam = np.exp(theta.log_lam)
        return Penalised(self.likelihood, parts, np.append(lam, 0.0) if self.intercept else lam)

    def _by_theta(self, phi: Phi, theta: Theta, fit: Fit, beta: float) -> np.ndarray:
        """`dL/dtheta` at fixed phi; no nudge knows of theta."""
        if self.per == "feature":
            coef = phi[:, : len(theta.log_lam)]
            return np.exp(theta.log_lam) * np.sum(coef**2, axis=0)
        slope = np.zeros(len(theta.log_weight))
        for f in fit.learned:
            at = self.index[f]
            slope[at] = np.exp(theta.log_weight[at]) * self.losses(phi, f)
        return slope
