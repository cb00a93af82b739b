"""Nodes and weights of every difference scheme in beta."""

from __future__ import annotations

import math
from cmath import rect
from typing import Any

import jax
import numpy as np

SCHEMES = ("forward", "symmetric", "holomorphic")
DEFAULT_ORDER = {"forward": 1, "symmetric": 2, "holomorphic": 4}


def stencil(scheme: str, order: int | None, beta: Any) -> tuple[list[Any], list[Any]]:
    """Nodes `b_k` and weights `w_k` with `sum_k w_k f(b_k) = f'(0) + O(beta^order)`.

    | scheme      | order p     | nodes                     | weights for the lowest order      |
    |-------------|-------------|---------------------------|-----------------------------------|
    | forward     | 1, 2, 3 ... | 0, b, 2b ... pb           | (-1, 1)/b; p=2: (-3/2, 2, -1/2)/b |
    | symmetric   | 2, 4, 6 ... | -(p/2)b ... (p/2)b        | (-1, 1)/2b                        |
    | holomorphic | 2, 3, 4 ... | b e^(2 pi i k/p), k < p   | e^(-2 pi i k/p)/(p b); p=2: above |

    `forward` with order 1 is the rule of the talk; with order 2 the second-order forward
    difference; higher orders are those of F2SA-p (Chen et al., 2026). A negative beta turns the
    nudge around. Node 0, the free phase, comes first where it carries weight.

    `holomorphic` is Cauchy's formula on a circle, for functions analytic on its disc, where the
    error has the constant `f^(p+1)(0) / (p+1)!` and no weight grows with p (Laborieux and Zenke,
    2022). A function that is real on the real line has conjugate values at conjugate nodes: of each
    such pair one is kept, with twice its weight, and the real part of the sum is the derivative.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"scheme: unknown {scheme!r}; choose one of {', '.join(SCHEMES)}.")
    p = DEFAULT_ORDER[scheme] if order is None else order
    least = 1 if scheme == "forward" else 2
    if not isinstance(p, int) or p < least or (scheme == "symmetric" and p % 2):
        kind = "an even" if scheme == "symmetric" else "a"
        raise ValueError(
            f"order: the {scheme} scheme needs {kind} whole number of at least {least}, "
            f"not {order!r}."
        )
    # A traced beta is not known before it runs; any other is, whatever type of number holds it.
    if not isinstance(beta, jax.core.Tracer) and (beta == 0 or not math.isfinite(beta)):
        raise ValueError(f"beta: the nudge must be finite and not zero, not {beta}; try 0.1.")
    if scheme == "holomorphic":
        return _circle(p, beta)
    if scheme == "forward":
        points = np.arange(p + 1.0)
    else:
        points = np.delete(np.arange(-p // 2, p // 2 + 1.0), p // 2)
    # The weights are exact on 1, b, b^2 ... b^p, of which only b has a derivative at 0.
    powers = np.vander(points, increasing=True).T
    weights = np.linalg.solve(powers, np.eye(len(points))[1])
    # The node 0 is the number 0 even where beta is traced: the free phase is known by it.
    return [float(x) * beta if x else 0.0 for x in points], [float(w) / beta for w in weights]


def _circle(p: int, beta: Any) -> tuple[list[Any], list[Any]]:
    """The upper half of the circle; its ends on the real line are real numbers, not complex."""
    units = [1.0, *(rect(1.0, 2 * math.pi * k / p) for k in range(1, (p + 1) // 2))]
    units += [] if p % 2 else [-1.0]
    weights = [(2 if isinstance(u, complex) else 1) / (p * u) for u in units]
    return [u * beta for u in units], [w / beta for w in weights]
