"""Products of low precision, as a GPU or TPU has them by default, emulated on CPUs.

JAX notes with each product how precise it is to be, and a CPU's compiler takes no notice. Here it
does, in this process: float32 factors are rounded to the 10 bits of TF32 where it says HIGH, and to
the 7 bits of bfloat16 where it says DEFAULT; sums stay float32. Nothing else changes, since a
product says so only within `low_precision`, or by an option of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
from jax._src.interpreters import mlir  # where the rules are that a primitive is compiled by

BITS = {jax.lax.Precision.HIGH: 10, jax.lax.Precision.DEFAULT: 7}
LOW = ("tensorfloat32", "bfloat16")


@contextmanager
def low_precision(name: str) -> Iterator[None]:
    """All products that say nothing else are as precise as `name`, one of `LOW`, says."""
    with jax.default_matmul_precision(name):
        yield


def rounded(x: jax.Array, bits: int) -> jax.Array:
    """x in float32 with `bits` behind the leading one, to the nearest, ties to even."""
    low = 23 - bits
    b = jax.lax.bitcast_convert_type(x, jnp.uint32)
    b = b + jnp.uint32((1 << (low - 1)) - 1) + ((b >> low) & 1)
    return jax.lax.bitcast_convert_type((b >> low) << low, jnp.float32)


def _rule(primitive: Any) -> Callable[..., Any]:
    original: Any = mlir._platform_specific_lowerings["cpu"].get(primitive)
    original = original or mlir._lowerings[primitive]
    original = getattr(original, "rule", original)

    def lower(ctx: Any, a: Any, b: Any, **params: Any) -> Any:
        asked: Any = (params["precision"] or (None,))[0]
        bits = BITS.get(asked)
        if bits and all(x.dtype == jnp.float32 for x in ctx.avals_in):
            precise = params | {"precision": (jax.lax.Precision.HIGHEST,) * 2}
            low = lambda a, b: primitive.bind(rounded(a, bits), rounded(b, bits), **precise)
            return mlir.lower_fun(low, multiple_results=False)(ctx, a, b)
        return original(ctx, a, b, **params)

    return lower


for _primitive in (jax.lax.dot_general_p, jax.lax.conv_general_dilated_p):
    mlir.register_lowering(_primitive, _rule(_primitive), platform="cpu")


def precisions(function: Callable[..., Any], *args: Any) -> list[jax.lax.Precision | None]:
    """Of all products in a function's program, none of which is run."""
    return [pair and pair[0] for pair in _products(jax.make_jaxpr(function)(*args).jaxpr)]


def _products(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        if equation.primitive in (jax.lax.dot_general_p, jax.lax.conv_general_dilated_p):
            yield equation.params["precision"]
        for part in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_program):
            if _is_program(part):
                yield from _products(getattr(part, "jaxpr", part))


def _is_program(x: Any) -> bool:
    return hasattr(x, "eqns") or hasattr(x, "jaxpr")
