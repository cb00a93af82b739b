"""A function whose kinks are held on the side on which they are at one point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun

from ._program import equations, within
from ._types import PyTree


class Pair(NamedTuple):
    """A value at the point whose kinks are held, and elsewhere; one object if nothing moved it."""

    at: Any
    x: Any


Pairs: TypeAlias = Sequence[Pair]
Function: TypeAlias = Callable[..., Any]

# Piecewise linear: away from its kinks, each is its own first-order expansion.
KINKED = {
    "abs", "ceil", "clamp", "cummax", "cummin", "floor", "max", "min", "reduce_max", "reduce_min",
    "reduce_window_max", "reduce_window_min", "round", "sign", "sort", "top_k",
}  # fmt: skip
# With these a function of kinks stays piecewise linear.
LINEAR = {
    "add", "broadcast_in_dim", "concatenate", "convert_element_type", "copy", "jit", "neg", "pjit",
    "reshape", "select_n", "squeeze", "sub", "transpose",
}  # fmt: skip
COMPARED = {"eq", "ge", "gt", "le", "lt", "ne"}
# Beside those two kinds, what makes another function of f where it is held.
STOPPED = {"argmax", "argmin", "stop_gradient"}


def held(f: Function, at: PyTree) -> Function:
    """`f(x)`, where every kink (ReLU, maximum, comparison) is on the side that it is on at `at`.

    It is f where no kink lies between, and the smooth continuation of the piece of f at `at` where
    one does; its derivatives at `at` are those of f. What is in no program that JAX can see, a loop
    of no fixed length or a `custom_vjp`, is left as it is.

    Args:
        f: any function of one tree of arrays.
        at: where.
    """
    program, out = jax.make_jaxpr(f, return_shape=True)(at)
    names = (equation.primitive.name for equation in equations(program.jaxpr))
    if not any(name in KINKED | COMPARED | STOPPED for name in names):
        return f
    here, structure = jax.tree.leaves(at), jax.tree.structure(out)

    def continued(x: PyTree) -> Any:
        pairs = list(map(_sided, here, jax.tree.leaves(x)))
        return jax.tree.unflatten(structure, [pair.x for pair in _run(program, pairs)])

    return continued


def _run(program: ClosedJaxpr, pairs: Pairs) -> list[Pair]:
    """Run a program at both points at once."""
    jaxpr = program.jaxpr
    known = dict(zip(jaxpr.constvars, (Pair(c, c) for c in program.consts), strict=True))
    known |= dict(zip(jaxpr.invars, pairs, strict=True))
    read = lambda v: Pair(v.val, v.val) if isinstance(v, Literal) else known[v]
    for equation in jaxpr.eqns:
        found = _step(jaxpr, equation, [read(v) for v in equation.invars])
        known |= dict(zip(equation.outvars, found, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _step(jaxpr: Jaxpr, equation: Any, pairs: Pairs) -> list[Pair]:
    run = _alone(jaxpr, equation)
    if all(at is x for at, x in pairs):
        return [Pair(at, at) for at in run(*(pair.at for pair in pairs))]
    name = equation.primitive.name
    if name in RUN_INSIDE:
        return [_sided(*pair) for pair in RUN_INSIDE[name](equation, pairs)]
    if name in KINKED or (name == "custom_jvp_call" and _is_affine(equation)):
        return _expanded(run, pairs)
    ats, xs = (run(*values) for values in zip(*pairs, strict=True))
    # A second derivative sees nothing behind a stop_gradient either.
    return list(map(_sided, ats, ats if name == "stop_gradient" else xs))


def _is_affine(equation: Any) -> bool:
    """Whether a function with a derivative of its own is piecewise linear, as ReLU is."""
    inner = (e.primitive.name for program in within(equation) for e in equations(program))
    return all(name in KINKED | LINEAR | COMPARED for name in inner)


def _alone(jaxpr: Jaxpr, equation: Any) -> Callable[..., list[Any]]:
    """An equation of a program as a function."""
    once = list(dict.fromkeys(v for v in equation.invars if not isinstance(v, Literal)))
    program = jaxpr.replace(constvars=[], invars=once, outvars=equation.outvars, eqns=[equation])
    run = jaxpr_as_fun(ClosedJaxpr(program, []))

    def at(*values: Any) -> list[Any]:
        pairs = zip(equation.invars, values, strict=True)
        given = {v: x for v, x in pairs if not isinstance(v, Literal)}
        return list(run(*(given[v] for v in once)))

    return at


def _sided(at: Any, x: Any) -> Pair:
    """A pair; of what is compared or counted, the side at the point."""
    return Pair(at, x) if _floats(at) else Pair(at, at)


def _floats(x: Any) -> bool:
    return bool(jnp.issubdtype(jnp.result_type(x), jnp.inexact))


def _expanded(run: Callable[..., list[Any]], pairs: Pairs) -> list[Pair]:
    """`p(at) + p'(at) (x - at)`."""
    moved = [i for i, (at, x) in enumerate(pairs) if at is not x]
    ats = [pair.at for pair in pairs]
    put = lambda new: run(*(new[moved.index(i)] if i in moved else at for i, at in enumerate(ats)))
    # What masks with infinities stays there.
    ways = [jnp.where(jnp.isfinite(at), x - at, 0) for at, x in (pairs[i] for i in moved)]
    values, slopes = jax.jvp(lambda *new: put(new), [ats[i] for i in moved], ways)
    return [
        Pair(v, v + s) if _floats(v) else Pair(v, v) for v, s in zip(values, slopes, strict=True)
    ]


# Programs within programs


def _called(equation: Any, pairs: Pairs) -> list[Pair]:
    return _run(equation.params["jaxpr"], pairs)


def _recomputed(equation: Any, pairs: Pairs) -> list[Pair]:
    """`jax.checkpoint`, which stays one."""
    program = ClosedJaxpr(equation.params["jaxpr"], [])
    run = jax.checkpoint(
        lambda pairs: _run(program, pairs),
        policy=equation.params["policy"],
        prevent_cse=equation.params["prevent_cse"],
    )
    return list(run(list(pairs)))


def _scanned(equation: Any, pairs: Pairs) -> list[Pair]:
    """A loop of fixed length: constants, what is carried, and rows, which have an axis more.

    Told by their shapes, since versions of JAX differ in how they count them.
    """
    p = equation.params
    body = p["jaxpr"].jaxpr
    rank = lambda variables: [v.aval.ndim for v in variables]
    kept = sum(map(int.__eq__, rank(equation.outvars), rank(body.outvars)))
    rows = sum(map(int.__ne__, rank(equation.invars), rank(body.invars)))
    first = len(pairs) - rows

    def step(state: list[Pair], x: list[Pair]) -> tuple[list[Pair], list[Pair]]:
        found = _run(p["jaxpr"], [*pairs[: first - kept], *state, *x])
        return found[:kept], found[kept:]

    state, stacked = jax.lax.scan(
        step, list(pairs[first - kept : first]), list(pairs[first:]), p["length"], p["reverse"],
        p["unroll"],
    )  # fmt: skip
    return [*state, *stacked]


def _chosen(equation: Any, pairs: Pairs) -> list[Pair]:
    """`cond` and `switch`, as chosen at the point."""
    branches = [
        lambda pairs, branch=branch: _run(branch, pairs) for branch in equation.params["branches"]
    ]
    return list(jax.lax.switch(pairs[0].at, branches, list(pairs[1:])))


RUN_INSIDE: dict[str, Callable[[Any, Pairs], list[Pair]]] = {
    "jit": _called, "pjit": _called, "closed_call": _called,
    "checkpoint": _recomputed, "remat2": _recomputed,
    "scan": _scanned, "cond": _chosen,
}  # fmt: skip
