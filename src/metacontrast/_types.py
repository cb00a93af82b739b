"""What the core's annotations say: numbers, trees of them, and functions of trees."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import jax
from jaxtyping import Array, Complex, Float, Int
from jaxtyping import PyTree as PyTree

from ._leaves import check_arrays, check_floating, is_key
from ._must import Must

Scalar: TypeAlias = Float[Array, ""] | Complex[Array, ""]
Step: TypeAlias = Int[Array, ""] | int  # the number of one
Key: TypeAlias = Annotated[jax.Array, Must("one key of jax.random", is_key)]
Learned: TypeAlias = Annotated[PyTree, check_floating]
Arrays: TypeAlias = Annotated[PyTree, check_arrays]
Aux: TypeAlias = dict[str, PyTree]  # diagnostics, by name
