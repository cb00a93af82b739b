"""Learning in complex numbers: what the phases of the holomorphic scheme need."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._loss import Loss
from ._types import PyTree

# On complex numbers these have no complex derivative, or jump. Comparisons of complex numbers
# reach the program as comparisons of their real parts, so "real" catches them.
NOT_ANALYTIC = frozenset(
    {"real", "imag", "conj", "abs", "sign", "eq", "ne", "clamp", "sort"}
    | {"max", "min", "reduce_max", "reduce_min", "argmax", "argmin", "cummax", "cummin"}
)
# Written with comparisons of real parts that make no difference to the value.
ANALYTIC = frozenset({"logaddexp"})


def complexify(phi: PyTree) -> PyTree:
    """The same numbers, of complex type; complex ones are left as they are."""
    return jax.tree.map(lambda p: p.astype(jnp.result_type(p, jnp.complex64)), phi)


def require_analytic(loss: Loss, phi: PyTree, outer: bool) -> None:
    """Raise a `ValueError` that names what in the losses is not analytic in phi, if anything is.

    The traced program is read, not run: a ReLU is analytic on either side of its kink, so that no
    derivative at one point would tell it from an analytic function. What only passes through a
    `stop_gradient` does not count; that is how `logsumexp` subtracts the maximum.

    Args:
        loss: of the free phase.
        phi: where learning starts.
        outer: whether the outer loss is evaluated on complex phi too.
    """
    for name, function in (("inner", loss.inner), ("outer", loss.outer))[: 1 + outer]:
        for primitive in _offenders(_traced(name, function, phi).jaxpr):
            raise ValueError(
                f"problem.{name}: the holomorphic scheme needs a loss that is analytic in phi, but "
                f"this one takes `{primitive}` of complex numbers, as ReLU, abs, max, where and "
                "norms do; use tanh, softplus, sums of squares, or the symmetric scheme."
            )
        # The factor makes the value complex even where it does not depend on phi.
        slope = jax.grad(lambda phi, f=function: 1j * f(phi), holomorphic=True)
        _traced(name, slope, phi)


def _traced(name: str, function: Callable[[PyTree], Any], phi: PyTree) -> Any:
    try:
        return jax.make_jaxpr(function)(complexify(phi))
    except TypeError as error:
        raise ValueError(
            f"problem.{name}: the holomorphic scheme runs and differentiates it on complex phi, "
            f"which it does not take ({error}); write it with jax.numpy (a softmax with "
            "jax.nn.logsumexp), or choose another scheme."
        ) from error


def _offenders(jaxpr: Any) -> Iterator[str]:
    """Names of the primitives, on the way from the inputs to the outputs, that are not analytic."""
    needed = {id(v) for v in jaxpr.outvars}
    for eqn in reversed(jaxpr.eqns):
        name = eqn.primitive.name
        if name == "stop_gradient" or not any(id(v) in needed for v in eqn.outvars):
            continue
        if name in NOT_ANALYTIC or _discards(eqn):
            yield from (name for v in eqn.invars if _is_complex(v))
        for inner in jax.tree.leaves(eqn.params, is_leaf=_is_program):
            if _is_program(inner) and _name(inner) not in ANALYTIC:
                yield from _offenders(getattr(inner, "jaxpr", inner))
        needed |= {id(v) for v in eqn.invars}


def _discards(eqn: Any) -> bool:
    return eqn.primitive.name == "convert_element_type" and not _is_complex(eqn.outvars[0])


def _is_complex(v: Any) -> bool:
    return np.issubdtype(getattr(v.aval, "dtype", np.float32), np.complexfloating)


def _name(program: Any) -> str:
    """Of the function that was traced, where JAX remembers it."""
    return getattr(getattr(program, "jaxpr", program).debug_info, "func_name", "")


def _is_program(x: Any) -> bool:
    from jax.extend import core  # takes a tenth of a second, and is needed by this scheme alone

    return isinstance(x, core.Jaxpr | core.ClosedJaxpr)
