"""What the core's annotations say: numbers, trees of them, and functions of trees."""

from __future__ import annotations

from typing import TypeAlias

import jax
from jaxtyping import Array, Complex, Float
from jaxtyping import PyTree as PyTree

Scalar: TypeAlias = Float[Array, ""] | Complex[Array, ""]
Key: TypeAlias = jax.Array  # of jax.random.key
Aux: TypeAlias = dict[str, PyTree]  # diagnostics, by name
