"""What the program of a function says of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr

from ._types import PyTree


def equations(program: Jaxpr) -> Iterator[Any]:
    """Its operations, those of programs within it too."""
    for equation in program.eqns:
        yield equation
        for inner in within(equation):
            yield from equations(inner)


def within(equation: Any) -> Iterator[Jaxpr]:
    """The programs of a loop, of a branch, of a function."""
    parts = jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns"))
    return (
        part if isinstance(part, Jaxpr) else part.jaxpr for part in parts if hasattr(part, "eqns")
    )


def narrowest(f: Callable[..., Any], *at: PyTree) -> float:
    """The precision of the least precise numbers that f computes with; 0 of one without any."""
    program = jax.make_jaxpr(f)(*at).jaxpr
    made = [v.aval for equation in equations(program) for v in equation.outvars]
    kinds = {v.dtype for v in [*(v.aval for v in program.invars), *made] if hasattr(v, "dtype")}
    return max(
        (float(jnp.finfo(k).eps) for k in kinds if jnp.issubdtype(k, jnp.inexact)), default=0
    )
