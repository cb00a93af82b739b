"""Counts of what is really evaluated: gradients by phi, and Hessian-vector products."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from .._problem import InverseCurvature, Objective, Problem, Split, objective
from .._types import PyTree, Scalar

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

    On its way into the inner loss phi passes an identity that every transformation meets. Its
    transpose carries the gradient back, and counts one when it is *run*: a loop counts as often as
    it turns, a row under `vmap` by itself, what the compiler drops as unused not at all, and what
    it takes out of a loop, being the same each time, once. The derivative of that, forwards or
    backwards, counts a Hessian-vector product. Where residuals are differentiated one by one, as
    `gauss_newton` does with those of a `LeastSquares`, every example is counted. Derivatives by
    theta at a fixed phi are not.
    """
    return replace(problem, inner=_Counted(objective(problem.inner), counts))


def rows(problem: Problem, theta: PyTree, z: PyTree) -> int:
    """How many examples a pass over the data has, where the inner loss knows; else 1."""
    split = objective(problem.inner).split(problem.init(theta, z), theta, z)
    squares = () if split is None else split.squares
    return sum(len(jax.tree.leaves(s.examples)[0]) for s in squares) or 1


@dataclass(frozen=True)
class _Counted(Objective):
    """A loss that counts apart when it is differentiated, and when its residuals are."""

    loss: Objective
    counts: Counts

    def __call__(self, phi: PyTree, theta: PyTree, z: PyTree) -> Scalar:
        return self.loss(_through(phi, self.counts.passes), theta, z)

    def split(self, phi: PyTree, theta: PyTree, z: PyTree) -> Split | None:
        split = self.loss.split(phi, theta, z)
        if split is None:
            return None
        each = lambda residual: lambda phi, x: residual(_through(phi, self.counts.examples), x)
        return split._replace(
            squares=tuple(s._replace(residual=each(s.residual)) for s in split.squares)
        )

    def inverse_curvature(
        self, theta: PyTree, z: PyTree, damping: float = 0.0
    ) -> InverseCurvature | None:
        return self.loss.inverse_curvature(theta, z, damping)


def _through(phi: PyTree, counter: Counter[str]) -> PyTree:
    """The same phi, whose derivatives will be counted."""
    first, *others = jax.tree.leaves(phi)
    leaves = [_tick.bind(first, role="phi", times=1, counter=_Hashable(counter)), *others]
    return jax.tree.unflatten(jax.tree.structure(phi), leaves)


class _Hashable:
    """A counter as a parameter of a primitive, which must have a hash."""

    def __init__(self, counter: Counter[str]) -> None:
        self.counter = counter


# The identity, in one of three roles: of phi itself; of a gradient by phi; of the derivative of a
# gradient by phi.
Role: TypeAlias = Literal["phi", "gradient", "product"]
_tick = Primitive("tick")
_COUNTS = {"gradient": GRADIENTS, "product": PRODUCTS}
_TANGENT: dict[Role, Role] = {"phi": "phi", "gradient": "product", "product": "product"}
_COTANGENT: dict[Role, Role] = {"phi": "gradient", "gradient": "product", "product": "product"}


def _evaluate(x: jax.Array, *, role: Role, times: int, counter: _Hashable) -> jax.Array:
    if role == "phi" or x.size == 0:
        return x

    def note(_: jax.Array) -> np.int32:
        counter.counter[_COUNTS[role]] += times
        return np.int32(0)

    # The 0 that Python returns is added: a call whose result is unused is not made. An integer,
    # because the thread that calls does not know of a local jax.enable_x64.
    zero = jax.pure_callback(note, jax.ShapeDtypeStruct((), np.int32), x.reshape(-1)[0])
    return x + zero.astype(x.dtype)


# The rules of JAX's transformations. Tangents and cotangents may be symbolic zeros, whose type is
# JAX's own; hence Any.


def _jvp(primals: Any, tangents: Any, *, role: Role, **rest: Any) -> tuple[Any, Any]:
    (x,), (t,) = primals, tangents
    # The first derivative takes the tick along: a second one, of phi's own way in, is no gradient.
    out = x if role == "phi" else _tick.bind(x, role=role, **rest)
    if type(t) is ad.Zero:
        return out, t
    return out, _tick.bind(t, role=_TANGENT[role], **rest)


def _transpose(ct: Any, x: Any, *, role: Role, **rest: Any) -> list[Any]:
    return [ct if type(ct) is ad.Zero else _tick.bind(ct, role=_COTANGENT[role], **rest)]


def _batch(operands: Any, axes: Any, *, times: int, **rest: Any) -> tuple[jax.Array, int]:
    (x,), (axis,) = operands, axes
    return _tick.bind(x, times=times * x.shape[axis], **rest), axis


_tick.def_abstract_eval(lambda x, **_: x)
_tick.def_impl(jax.jit(_evaluate, static_argnames=("role", "times", "counter")))
ad.primitive_jvps[_tick] = _jvp
ad.primitive_transposes[_tick] = _transpose
batching.primitive_batchers[_tick] = _batch
mlir.register_lowering(_tick, mlir.lower_fun(_evaluate, multiple_results=False))
