"""Nodes and weights of every difference scheme in beta."""

from __future__ import annotations

import math
from cmath import rect
from typing import Annotated, Literal, NamedTuple, TypeAlias

import numpy as np

from ._must import nudge
from ._types import Scalar

Scheme: TypeAlias = Literal["forward", "symmetric", "holomorphic"]
DEFAULT_ORDER = {"forward": 1, "symmetric": 2, "holomorphic": 4}


class Stencil(NamedTuple):
    """`f'(0) ~ free f(0) + sum_k weights_k f(nodes_k)`, of which `f(0)` is the free phase.

    `free` is None where the scheme does not use it; no node is 0.
    """

    nodes: tuple[Scalar | complex, ...]
    weights: tuple[Scalar | complex, ...]
    free: Scalar | float | None

    def scaled(self, size: Scalar | float) -> Stencil:
        """The same times a number."""
        free = None if self.free is None else size * self.free
        return Stencil(self.nodes, tuple(size * w for w in self.weights), free)


def stencil(scheme: Scheme, order: int | None, beta: Annotated[Scalar | float, nudge()]) -> Stencil:
    """The stencil with `free f(0) + sum_k w_k f(b_k) = f'(0) + O(beta^order)`.

    | scheme      | order p     | nodes                     | weights for the lowest order      |
    |-------------|-------------|---------------------------|-----------------------------------|
    | forward     | 1, 2, 3 ... | 0, b, 2b ... pb           | (-1, 1)/b; p=2: (-3/2, 2, -1/2)/b |
    | symmetric   | 2, 4, 6 ... | -(p/2)b ... (p/2)b        | (-1, 1)/2b                        |
    | holomorphic | 2, 3, 4 ... | b e^(2 pi i k/p), k < p   | e^(-2 pi i k/p)/(p b); p=2: above |

    `forward` with order 1 is the rule of the paper; with order 2 the second-order forward
    difference; higher orders are those of F2SA-p (Chen et al., 2026). A negative beta turns the
    nudge around.

    `holomorphic` is Cauchy's formula on a circle, for functions analytic on its disc, where the
    error has the constant `f^(p+1)(0) / (p+1)!` and no weight grows with p (Laborieux and Zenke,
    2022). A function that is real on the real line has conjugate values at conjugate nodes: of each
    such pair one is kept, with twice its weight, and the real part of the sum is the derivative.

    Args:
        scheme: one of the above.
        order: in beta. Default 1 for forward, 2 for symmetric, 4 for holomorphic.
        beta: the distance of the nodes, finite and not 0; may be traced.

    Raises:
        ValueError: an unknown scheme, an order that it lacks, a beta of 0 or not finite.
    """
    p = order_of(scheme, order)
    if scheme == "holomorphic":
        return _circle(p, beta)
    points = np.arange(p + 1.0) if scheme == "forward" else np.arange(-p // 2, p // 2 + 1.0)
    points = points[points != 0] if scheme == "symmetric" else points
    # The weights are exact on 1, b, b^2 ... b^p, of which only b has a derivative at 0.
    powers = np.vander(points, increasing=True).T
    weights = np.linalg.solve(powers, np.eye(len(points))[1])
    pairs = [(float(x) * beta, float(w) / beta) for x, w in zip(points, weights, strict=True) if x]
    free = float(weights[0]) / beta if scheme == "forward" else None
    return Stencil(tuple(b for b, _ in pairs), tuple(w for _, w in pairs), free)


def order_of(scheme: Scheme, order: int | None) -> int:
    p = DEFAULT_ORDER[scheme] if order is None else order
    least = 1 if scheme == "forward" else 2
    if not isinstance(p, int) or p < least or (scheme == "symmetric" and p % 2):
        kind = "an even" if scheme == "symmetric" else "a"
        raise ValueError(
            f"order: the {scheme} scheme needs {kind} whole number of at least {least}, "
            f"not {order!r}."
        )
    return p


def _circle(p: int, beta: Scalar | float) -> Stencil:
    """The upper half of the circle; its ends on the real line are real numbers, not complex."""
    units = [1.0, *(rect(1.0, 2 * math.pi * k / p) for k in range(1, (p + 1) // 2))]
    units += [] if p % 2 else [-1.0]
    weights = [(2 if isinstance(u, complex) else 1) / (p * u) for u in units]
    return Stencil(tuple(u * beta for u in units), tuple(w / beta for w in weights), None)
