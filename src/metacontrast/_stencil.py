"""Nodes and weights of every difference scheme in beta."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

SCHEMES = ("forward", "symmetric")


def stencil(scheme: str, order: int | None, beta: Any) -> tuple[list[Any], list[Any]]:
    """Nodes `b_k` and weights `w_k` with `sum_k w_k f(b_k) = f'(0) + O(beta^order)`.

    | scheme    | order p     | nodes                  | weights for the lowest order     |
    |-----------|-------------|------------------------|----------------------------------|
    | forward   | 1, 2, 3 ... | 0, b, 2b ... pb        | (-1, 1)/b; p=2: (-3/2, 2, -1/2)/b |
    | symmetric | 2, 4, 6 ... | -(p/2)b ... (p/2)b     | (-1, 1)/2b                       |

    `forward` with order 1 is the rule of the talk; with order 2 the second-order forward
    difference; higher orders are those of F2SA-p (Chen et al., 2026). A negative beta turns the
    nudge around. Node 0, the free phase, comes first where it carries weight.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"scheme: unknown {scheme!r}; choose one of {', '.join(SCHEMES)}.")
    p = (1 if scheme == "forward" else 2) if order is None else order
    if not isinstance(p, int) or p < 1 or (scheme == "symmetric" and p % 2):
        kind = "an even whole number" if scheme == "symmetric" else "a whole number of at least 1"
        raise ValueError(f"order: the {scheme} scheme needs {kind}, not {order!r}.")
    if isinstance(beta, int | float) and (beta == 0 or not math.isfinite(beta)):
        raise ValueError(f"beta: the nudge must be finite and not zero, not {beta}; try 0.1.")
    if scheme == "forward":
        points = np.arange(p + 1.0)
    else:
        points = np.delete(np.arange(-p // 2, p // 2 + 1.0), p // 2)
    # The weights are exact on 1, b, b^2 ... b^p, of which only b has a derivative at 0.
    powers = np.vander(points, increasing=True).T
    weights = np.linalg.solve(powers, np.eye(len(points))[1])
    return [float(x) * beta for x in points], [float(w) / beta for w in weights]
