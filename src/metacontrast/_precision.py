"""The precision of products: of the library's own the highest, of networks what is asked for.

A GPU or TPU multiplies float32 matrices by factors rounded to 10 or 7 bits unless it is told not
to. Solves, gram matrices, differences and contrasts then lose all that they are about.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

# Of the factors of products: as they are, or with 10 or 7 bits behind the leading one where the
# machine is faster for it. Sums are of the factors' own type at least.
Precision: TypeAlias = Literal["highest", "tensorfloat32", "bfloat16"]


def matmul(
    a: jax.Array,
    b: jax.Array,
    precision: Precision = "highest",
    out_dtype: DTypeLike | None = None,
) -> jax.Array:
    """`a @ b`, also its derivatives, whatever the backend's or the caller's default precision."""
    return jnp.matmul(
        *factors(precision, a, b),
        precision=lax_precision(precision),
        preferred_element_type=out_dtype or jnp.result_type(a, b),
    )


def factors(precision: Precision, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    """The factors of a product in their common type, or in bfloat16 if that is asked for.

    To round to it is an instruction of no backend: a GPU takes TF32 for it.
    """
    narrow = precision == "bfloat16"
    dtype = jnp.bfloat16 if narrow else jnp.result_type(*arrays)
    return tuple(x.astype(dtype) for x in arrays)


def lax_precision(precision: Precision) -> jax.lax.Precision:
    """What JAX calls it."""
    return jax.lax.Precision(precision)
