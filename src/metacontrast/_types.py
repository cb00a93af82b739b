"""What the core's annotations say: numbers, trees of them, and functions of trees."""

from __future__ import annotations

from typing import TypeAlias

import jax
from jaxtyping import Array, Complex, Float, Int
from jaxtyping import PyTree as PyTree

Scalar: TypeAlias = Float[Array, ""] | Complex[Array, ""]
Step: TypeAlias = Int[Array, ""] | int  # the number of one
Key: TypeAlias = jax.Array  # of jax.random.key
Aux: TypeAlias = dict[str, PyTree]  # diagnostics, by name
