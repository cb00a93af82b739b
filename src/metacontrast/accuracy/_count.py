"""Counts of what is really evaluated: gradients by phi, and Hessian-vector products."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from .._gauss_newton import LeastSquares
from .._problem import Problem, PyTree

GRADIENTS, PRODUCTS = "gradients", "products"


class Counts(NamedTuple):
    """What was evaluated, under GRADIENTS and PRODUCTS: on all data, and on single examples."""

    passes: Counter[str]
    examples: Counter[str]

    def total(self, name: str, rows: int) -> int:
        """Of `name`, in passes over the data of so many rows."""
        return round(self.passes[name] + self.examples[name] / rows)


def counted(problem: Problem, counts: Counts) -> Problem:
    """The same problem, which adds to `counts` whenever its inner loss is differentiated by phi.

    On its way into the inner loss phi passes an identity that is seen by every transformation. Its
    transpose carries the gradient back, and counts one when it is *run*: a loop counts as often as
    it turns, a row under `vmap` by itself, what the compiler drops as unused not at all, and what
    it takes out of a loop, being the same each time, once. The derivative of that, forwards or
    backwards, counts a Hessian-vector product. Of a `LeastSquares` whose residuals are
    differentiated one by one, as `gauss_newton` does, every example is counted. Derivatives by
    theta at a fixed phi are not.
    """
    inner: Any = problem.inner
    if not isinstance(inner, LeastSquares):
        return replace(problem, inner=_ticking(inner, counts.passes))
    residual = _ticking(inner.residual, counts.examples)
    return replace(
        problem, inner=_Counted(residual, inner.data, inner.prior, _ticking(inner, counts.passes))
    )


@dataclass(frozen=True)
class _Counted(LeastSquares):
    """Least squares whose loss and whose residuals count apart."""

    whole: Any = None

    def __call__(self, phi: PyTree, theta: PyTree, z: PyTree) -> jax.Array:
        return self.whole(phi, theta, z)


def _ticking(function: Any, counter: Counter[str]) -> Any:
    """`function(phi, theta, z)`, which counts its derivatives by phi."""

    def at(phi: PyTree, theta: PyTree, z: PyTree) -> Any:
        first, *others = jax.tree.leaves(phi)
        leaves = [_seen.bind(first, role="phi", times=1, counts=_Identified(counter)), *others]
        return function(jax.tree.unflatten(jax.tree.structure(phi), leaves), theta, z)

    return at


class _Identified:
    """A counter as a parameter of a primitive, which must have a hash."""

    def __init__(self, counts: Counter[str]) -> None:
        self.counts = counts


# The identity, in one of three roles: of phi itself; of a gradient by phi; of the derivative of a
# gradient by phi.
_seen = Primitive("seen")
_COUNTS = {"gradient": GRADIENTS, "product": PRODUCTS}
_TANGENT = {"phi": "phi", "gradient": "product", "product": "product"}
_COTANGENT = {"phi": "gradient", "gradient": "product", "product": "product"}


def _evaluated(x: Any, *, role: str, times: int, counts: _Identified) -> Any:
    if role == "phi" or x.size == 0:
        return x

    def note(_: Any) -> Any:
        counts.counts[_COUNTS[role]] += times
        return np.int32(0)

    # The 0 that Python returns is added: a call whose result is unused is not made. An integer,
    # because the thread that calls does not know of a local jax.enable_x64.
    nought = jax.pure_callback(note, jax.ShapeDtypeStruct((), np.int32), x.reshape(-1)[0])
    return x + nought.astype(x.dtype)


def _differentiated(primals: Any, tangents: Any, *, role: str, **rest: Any) -> Any:
    (x,), (t,) = primals, tangents
    # The first derivative takes the tick along: a second one, of phi's own way in, is no gradient.
    out = x if role == "phi" else _seen.bind(x, role=role, **rest)
    if type(t) is ad.Zero:
        return out, t
    return out, _seen.bind(t, role=_TANGENT[role], **rest)


def _transposed(ct: Any, x: Any, *, role: str, **rest: Any) -> list[Any]:
    return [ct if type(ct) is ad.Zero else _seen.bind(ct, role=_COTANGENT[role], **rest)]


def _batched(operands: Any, axes: Any, *, times: int, **rest: Any) -> Any:
    (x,), (axis,) = operands, axes
    return _seen.bind(x, times=times * x.shape[axis], **rest), axis


_seen.def_abstract_eval(lambda x, **_: x)
_seen.def_impl(jax.jit(_evaluated, static_argnames=("role", "times", "counts")))
ad.primitive_jvps[_seen] = _differentiated
ad.primitive_transposes[_seen] = _transposed
batching.primitive_batchers[_seen] = _batched
mlir.register_lowering(_seen, mlir.lower_fun(_evaluated, multiple_results=False))
