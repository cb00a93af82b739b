"""A layer's product with its input, in the order that is fast on CPUs."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from .._precision import Precision, factors, lax_precision, matmul


def product(w: jax.Array, x: jax.Array, precision: Precision = "highest") -> jax.Array:
    """`w x`, for weights (outputs, inputs) and one input; meant to be mapped over many.

    XLA's CPU compiler has a fast kernel for small products, but only of (rows, inner) with (inner,
    columns) as they lie in memory; others take up to four times as long. Mapped over examples,
    `w @ x` and its gradient by `w` are others. So the input comes first here, and the gradient's
    first factor is brought into that order, which a barrier keeps the compiler from undoing. It is
    the same sum of the same numbers, and can be differentiated any number of times in both modes.

    Example:
        >>> product(jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([1.0, 1.0])).tolist()
        [3.0, 7.0]
    """
    # With one output or one input there is nothing to put in order.
    matrix = min(w.shape) > 1 and jax.default_backend() == "cpu"
    dtype = jnp.result_type(w, x)
    return (_ordered if matrix else _row)(precision, w.astype(dtype), x.astype(dtype))


def _row(precision: Precision, w: jax.Array, x: jax.Array) -> jax.Array:
    a, b = factors(precision, x, w)
    precise = lax_precision(precision)
    return jnp.tensordot(a, b, (0, 1), precision=precise, preferred_element_type=x.dtype)


_ordered = jax.custom_jvp(_row, nondiff_argnums=(0,))


@_ordered.defjvp
def _ordered_jvp(
    precision: Precision,
    primals: tuple[jax.Array, jax.Array],
    tangents: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array]:
    (w, x), (dw, dx) = primals, tangents
    # Mapped, `dw @ x` is (outputs, examples); so is then what the gradient by w is made from.
    by_w = jax.lax.optimization_barrier(matmul(dw, x, precision))
    return _ordered(precision, w, x), _row(precision, w, dx) + by_w
