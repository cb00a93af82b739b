"""Products with second derivatives by differences of first ones, and what these are worth."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._held import held
from ._program import narrowest
from ._tree import norm, or_one, widened
from ._types import Scalar

Numbers: TypeAlias = list[jax.Array]
Value: TypeAlias = Callable[[Numbers], Scalar]

LONGEST = 0.1  # of the steps that are tried
LATER = 1000.0  # times that losses bend as they do at first: attention did so, as it grew sharper
# What round-off makes of a difference, at most, relative to it and in units of eps / h.
ROUND_OFF = 100.0


def secant(f: Value, xs: Numbers, d: Numbers, way: Scalar) -> Numbers:
    """`d' d2f/dx2` by a central difference over so long a way, in float32 at least.

    Kinks of f are held where they are at x: what the product is to be made of is its smooth piece.
    """
    size = or_one(norm(d))
    xs, unit = [widened(x) for x in xs], [widened(x) / size for x in d]
    piece = held(f, xs)

    def slope(way: Scalar) -> Numbers:
        return jax.grad(piece)(
            [x + (way * u).astype(x.dtype) for x, u in zip(xs, unit, strict=True)]
        )

    ahead, behind = slope(way), slope(-way)
    return [(a - b) * (size / (2 * way)) for a, b in zip(ahead, behind, strict=True)]


def apart(a: Numbers, b: Numbers) -> Scalar:
    """`|a - b|`."""
    return norm([x - y for x, y in zip(a, b, strict=True)])


def size_of(phi: Numbers) -> Scalar:
    """`|phi|`; a phi of 0 has no size of its own, and is moved as if its unit were 1."""
    return or_one(norm(phi))


class Errors(NamedTuple):
    """Of a difference: the part that falls as its step is shortened, and the part that grows."""

    bent: Float[Array, "..."]  # by third derivatives, O(h^2)
    rough: Float[Array, "..."]  # by round-off, O(1/h)


def errors(first: Array, second: Array) -> Errors:
    """From the changes by a step half as long, and by one of a quarter.

    With independent errors, a step of h and one of h / 2 differ by

        first^2 = bent^2 (1 - 1/4)^2 + rough^2 (1 + 4),

    and at h / 2, with `second`, bends are a quarter of that, and round-off is twice as large.
    """
    whole = 4 - 1 / 16
    bent = (4 * first**2 - second**2) / ((1 - 1 / 4) ** 2 * whole)
    rough = (second**2 - first**2 / 16) / ((1 + 4) * whole)
    # What grows is round-off alone. Not `max(x, 0)`, which of a NaN may be 0.
    bent = jnp.where((bent < 0) | (second >= first), 0, bent)
    return Errors(jnp.sqrt(bent), jnp.sqrt(jnp.where(rough < 0, 0, rough)))


def best_step(f: Value, xs: Numbers, d: Numbers, size: Scalar, steps: int) -> Scalar:
    """The h at which so many differences along `d`, over `h size`, sum to the smallest error.

    Errors by bends, `bent h^2`, have the same sign at every step, and add up; those by round-off,
    `rough / h`, are independent. One is told by the change from a long way to its half, the other
    from a short one. This is known where learning starts; later on a loss bends more, and is taken
    to, `LATER` times.
    """
    shortest = 0.25 * narrowest(f, list(map(widened, xs))) ** 0.5
    trials = jnp.array([LONGEST, LONGEST / 2, shortest, shortest / 2])
    found = jax.lax.map(lambda h: secant(f, xs, d, h * size), trials)
    long, short = (apart([x[i] for x in found], [x[i + 1] for x in found]) for i in (0, 2))
    bent, rough = long / (0.75 * LONGEST**2), short * shortest / 5**0.5
    h = jnp.cbrt(rough / or_one(2 * steps**0.5 * LATER * bent))
    # A way so long that something overflows is too long.
    h = jnp.where(jnp.isfinite(long), h, shortest)
    return jnp.where(h < LONGEST, jnp.maximum(h, shortest), LONGEST)


def expected_error(
    changes: Float[Array, "t 3"], adjoints: Array, h: Scalar, eps: float, every: int
) -> Scalar:
    """The relative error of a sweep, of which every so many steps were checked; the others are 0.

    Each step's is relative to the adjoint that it is added to, and bends are told from round-off by
    all steps together, since one alone may mistake them. What round-off explains is independent
    from step to step; the rest, of bends, may add up, and is taken to.

    Args:
        changes: of each step's product with each of two halvings of h, and its size.
        adjoints: sizes of the adjoints.
        h: the step.
        eps: of the arithmetic.
        every: how many steps each checked one stands for.
    """
    shares = jnp.where(changes == 0, 0, changes / or_one(adjoints)[:, None])
    first, second, size = jnp.linalg.norm(shares, axis=0)
    bent, rough = errors(first, second)
    known = jnp.where(rough <= ROUND_OFF * eps / h * size, rough, 0)
    checked = jnp.sum(changes[:, 2] != 0)
    return every * jnp.sqrt(checked) * (bent + rough - known) + jnp.sqrt(every) * known
