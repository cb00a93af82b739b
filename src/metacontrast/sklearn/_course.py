"""The meta-steps of a search: one theta a held-out fold, and when to stop."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ._folds import Fit, Folds, Theta

# Adam's own, of which the last keeps a feature without any slope where it is.
DECAYS, SMALLEST = (0.9, 0.999), 1e-12
FARTHEST = 14.0  # natural logarithms from where a penalty starts: a factor of a million
HEAVIEST = 2.0  # the logarithm of the largest weight


class Course(NamedTuple):
    """What meta-steps led to.

    Attributes:
        thetas: of each step and fold, log penalties or log weights, learned without that fold.
        losses: of each step, every example's, of fits whose theta has not seen its fold.
    """

    thetas: Float[np.ndarray, "steps folds size"]
    losses: Float[np.ndarray, "steps n"]


@dataclass(frozen=True)
class Descent:
    """Adam on theta.

    Args:
        start: before the first step, the same for all folds.
        rate: of Adam, in natural logarithms of a penalty or a weight.
        steps: at most.
        patience: how many steps without a lower held-out loss end it before.
    """

    start: Theta
    rate: float
    steps: int
    patience: int


def shared_penalty(folds: Folds, grid: Iterable[float], start: Theta) -> float:
    """Of a grid, the one penalty for all features that has the least cross-validated loss."""
    every = range(len(folds.rows))
    fits = [Fit(tuple(f for f in every if f != held), held) for held in every]
    found = {}
    for lam in sorted(grid, reverse=True):
        theta = start._replace(log_lam=np.full_like(start.log_lam, np.log(lam)))
        losses = [folds.losses(folds.fit(theta, fit), fit.held) for fit in fits]
        found[float(lam)] = np.mean(np.concatenate(losses))
    return min(found, key=lambda lam: found[lam])


def course(folds: Folds, descent: Descent) -> Course:
    """Learn a theta on all folds but one, for each, and judge it on that one.

    The fits of a course leave out two folds: that by which they are judged in the meta-loss, and
    that by which the whole course is.
    """
    walks = [_Walk(folds, descent, k) for k in range(len(folds.rows))]
    thetas, losses = [], []
    for _ in range(descent.steps + 1):
        thetas.append(np.array([walk.learned for walk in walks]))
        row = np.empty(sum(map(len, folds.index)))
        for walk in walks:
            row[folds.index[walk.apart]] = walk.step()
        losses.append(row)
        means = np.mean(losses, axis=1)
        if len(means) - 1 - np.argmin(means) >= descent.patience:
            break
    return Course(np.array(thetas), np.array(losses))


class _Walk:
    """The course of one theta, which never sees the fold `apart`."""

    def __init__(self, folds: Folds, descent: Descent, apart: int) -> None:
        self.apart, self._descent = apart, descent
        others = [f for f in range(len(folds.rows)) if f != apart]
        self._fits = [Fit(tuple(f for f in others if f != held), held) for held in others]
        self._folds = replace(folds, ends={})
        self._theta, self._t = descent.start, 0
        self._moments = np.zeros((2, len(self.learned)))

    @property
    def learned(self) -> np.ndarray:
        """The part of theta that moves."""
        return self._theta.log_lam if self._folds.per == "feature" else self._theta.log_weight

    def step(self) -> np.ndarray:
        """Take one; the losses of the fold apart before it, of each of its examples."""
        folds, slope, losses = self._folds, np.zeros_like(self.learned), []
        for fit in self._fits:
            phi = folds.fit(self._theta, fit)
            slope = slope + folds.gradient(self._theta, fit, phi)
            losses.append(folds.losses(phi, self.apart))
        self._move(slope / sum(len(folds.index[fit.held]) for fit in self._fits))
        return np.mean(losses, axis=0)

    def _move(self, slope: np.ndarray) -> None:
        self._t += 1
        powers = np.stack([slope, slope**2])
        decays = np.array(DECAYS)[:, None]
        self._moments = decays * self._moments + (1 - decays) * powers
        mean, square = self._moments / (1 - decays**self._t)
        new = self.learned - self._descent.rate * mean / (np.sqrt(square) + SMALLEST)
        if self._folds.per == "feature":
            start = self._descent.start.log_lam
            new = np.clip(new, start - FARTHEST, start + FARTHEST)
            self._theta = self._theta._replace(log_lam=new)
        else:
            new = np.clip(new, -FARTHEST, HEAVIEST)
            # A common factor of all weights is one of the penalty, which is not to be tuned here.
            self._theta = self._theta._replace(log_weight=new - np.log(np.mean(np.exp(new))))


def chosen_step(losses: Float[np.ndarray, "steps n"], errors: float) -> int:
    """The first step whose held-out loss is not told apart from that of the best one.

    It lies within so many standard errors of the difference, which is paired by example: the rule
    of one standard error (Breiman et al., 1984). So theta leaves its start only for what is told.
    """
    best = int(np.argmin(np.mean(losses, axis=1)))
    worse = losses - losses[best]
    spread = np.std(worse, axis=1, ddof=1) / np.sqrt(losses.shape[1])
    return int(np.argmax(np.mean(worse, axis=1) <= errors * spread))
