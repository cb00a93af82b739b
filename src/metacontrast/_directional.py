"""A gradient judged by differences of the function that it is to be the gradient of."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from ._arrays import Numbers, norm

Verdict: TypeAlias = Literal["trust", "doubt", "do not trust"]
# `displacement of theta -> (that which theta's type holds, the meta-loss there)`.
Move: TypeAlias = Callable[[Numbers], tuple[Numbers, float]]

FEW, MORE = 3, 5  # directions across the estimate; more where a few of them say that all is well
TRUSTED, REFUSED = 0.95, 0.85  # the cosine from which on, and up to which, it is sure
ROUGH = 0.3  # the relative change of a difference at half its step from which on it tells nothing
SEEN = 0.05  # the relative change of F over which a slope should still hold
FINER = 10  # a step that is to see no kink, as a part of one that may
ABOVE = 100  # round-offs that a finer step is to be above
FARTHEST = 0.3  # how far theta is moved, in units of its own size, at most


class Look(NamedTuple):
    """What differences say of an estimate.

    Attributes:
        cosine: between the estimate and the gradient; NaN where that has none.
        error: `|estimate - gradient| / |gradient|`.
        size: `|gradient|`.
        is_smooth: whether the function is smooth enough to tell.
        is_zero: whether the estimate is exactly 0.
        directions: across the estimate, in which the function was looked at.
        straight: of an estimate that is trusted, the slope over a change of `SEEN` of F to either
            side, relative to that at the point.
    """

    cosine: float
    error: float
    size: float
    is_smooth: bool
    is_zero: bool = False
    directions: int = 0
    straight: float | None = None

    @property
    def verdict(self) -> Verdict:
        """What follows."""
        if not self.cosine > REFUSED:  # NaN is no cosine to be trusted
            return "do not trust"
        return "trust" if self.is_smooth and self.cosine >= TRUSTED else "doubt"


@dataclass(frozen=True)
class Judge:
    """Differences of a meta-loss F at theta.

    Along an estimate D and along a few random directions q_i that are orthogonal to it,

        a = [F(theta + e D/|D|) - F(theta - e D/|D|)] / 2e,    b_i the same along q_i.

    If D is the gradient g, then a = |D| and all b are 0. If not, `|g|^2 ~ a^2 + (n-1) mean b_i^2`,
    so that the cosine of D and g is about `a / |g|`, and the relative error is the length of
    `(|D| - a, sqrt(n-1) b)` in units of `|g|`. With at most `FEW` directions beside D that is
    exact, up to the step.

    Args:
        at: F, where theta is displaced.
        theta: in one row.
        value: F there.
        eps: of the narrowest type that F computes in.
        theta_eps: of that of theta.

    Example: the gradient of a square, and a wrong one.
        >>> at = lambda way: (way, float(np.sum((np.ones(3) + way) ** 2)))
        >>> judge = Judge(at, np.ones(3), 3.0, eps=2e-16, theta_eps=2e-16)
        >>> [judge.look(np.array(d)).verdict for d in ([2.0, 2.0, 2.0], [2.0, 2.0, 0.0])]
        ['trust', 'do not trust']
    """

    at: Move
    theta: Numbers
    value: float
    eps: float
    theta_eps: float

    def look(self, d: Numbers) -> Look:
        """Judge an estimate; it takes 10 values of F, or 16 where it is trusted.

        And 6 to 14 more, at a finer step, where it is not trusted: kinks of F within a step, as of
        networks with ReLU, look like an error of the estimate.
        """
        size = norm(d)
        if not (0 < size < math.inf):
            return Look(math.nan, math.nan, math.nan, True, is_zero=size == 0)
        unit, step = d / size, self._step(size)
        look = self._at_step(unit, size, step, (FEW, MORE))
        fine = step / FINER
        if look.verdict != "trust" and self._tells(fine, size):
            again = self._at_step(unit, size, fine, (1, FEW, MORE))
            look = again if again.verdict == "trust" else look
        if look.verdict != "trust":
            return look
        # What it is worth: does the slope hold over a change of F that can be seen?
        far = SEEN * abs(self.value) / size if self.value else step
        far = min(max(far, step), FARTHEST * self._rms)
        along = look.cosine * look.size
        return look._replace(straight=_ratio(self._along(unit, far), along))

    def _at_step(self, unit: Numbers, size: float, step: float, ways: tuple[int, ...]) -> Look:
        """Along the estimate, and beside it in so many ways, as long as it is trusted."""
        along, again = (self._along(unit, x) for x in (step, step / 2))
        is_smooth = abs(along - again) <= ROUGH * abs(along)
        beside, slopes = _across(unit), list[float]()
        look = Look(math.nan, math.nan, math.nan, is_smooth)
        for n in ways:
            slopes += [self._beside(unit, along, step * way) for way in beside[len(slopes) : n]]
            look = _judged(size, along, slopes, is_smooth, unit.size)
            if look.verdict != "trust":
                break
        return look

    def _tells(self, step: float, size: float) -> bool:
        """Whether round-off of F and of theta is far below what such a step changes."""
        seen = ABOVE * self.eps * abs(self.value) < step * size
        return seen and step > ABOVE * self.theta_eps * norm(self.theta)

    def slope(self, d: Numbers) -> float:
        """That of F along `d`, forward, which takes one value."""
        unit = d / norm(d)
        held, value = self.at(self._step(norm(d)) * unit)
        return _ratio(value - self.value, float(held @ unit))

    def _along(self, unit: Numbers, step: float) -> float:
        held, rise = self._difference(step * unit)
        return _ratio(rise, float(held @ unit))

    def _beside(self, unit: Numbers, along: float, way: Numbers) -> float:
        held, rise = self._difference(way)
        # Where theta's type holds a way only roughly, it has a part along the estimate.
        lean = float(held @ unit)
        return _ratio(rise - along * lean, norm(held - lean * unit))

    def _difference(self, way: Numbers) -> tuple[Numbers, float]:
        (held, up), (back, down) = self.at(way), self.at(-way)
        return held - back, up - down

    def _step(self, size: float) -> float:
        """How far theta is moved: so far that F changes by the cube root of eps.

        But no farther than theta is large, and so far that theta's type can tell.
        """
        change = min(max(self.eps, self.theta_eps) ** (1 / 3), 0.05)
        least = max(math.sqrt(self.eps) * self._rms, 4 * self.theta_eps * norm(self.theta))
        return max(min(change * abs(self.value) / size, FARTHEST * self._rms), least)

    @property
    def _rms(self) -> float:
        """A size of theta's numbers."""
        return norm(self.theta) / math.sqrt(self.theta.size) or 1.0


def _across(unit: Numbers) -> Numbers:
    """Random directions, orthonormal, and orthogonal to this one."""
    m = min(MORE, unit.size - 1)
    rows = np.random.default_rng(0).normal(size=(m, unit.size))
    return np.linalg.qr(np.vstack([unit, rows]).T)[0].T[1:]


def _judged(size: float, along: float, slopes: list[float], is_smooth: bool, n: int) -> Look:
    across = math.sqrt((n - 1) * np.mean(np.square(slopes))) if slopes else 0.0
    whole = math.hypot(along, across)
    if not 0 < whole < math.inf:
        return Look(math.nan, math.nan, math.nan, False)
    error = math.hypot(size - along, across) / whole
    return Look(along / whole, error, whole, is_smooth, directions=len(slopes))


def _ratio(rise: float, way: float) -> float:
    return rise / way if way else math.nan


def change(new: Numbers, old: Numbers) -> float:
    """`|new - old| / |old|`, NaN where old is 0."""
    return _ratio(norm(new - old), norm(old))


def cosine(a: Numbers, b: Numbers) -> float:
    """Between the two, NaN where one is 0."""
    sizes = norm(a), norm(b)
    return float((a / sizes[0]) @ (b / sizes[1])) if all(sizes) else math.nan
