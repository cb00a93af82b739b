"""Slopes of a loss, free and nudged, at many places: one after the other, and compiled once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Inexact, Int

from ._loss import Loss, Nudge
from ._tree import norm, widened
from ._types import PyTree, Scalar


class Place(NamedTuple):
    """Where a phase ended: its weights, and the state of its model."""

    phi: PyTree
    state: PyTree = None

    @property
    def is_complex(self) -> bool:
        """Whether the phase learned in complex numbers."""
        return any(map(jnp.iscomplexobj, jax.tree.leaves(self.phi)))


class Turn(NamedTuple):
    """The slope of `inner L_in + outer L_out + added N_beta` at a place, and its weight in a sum.

    `N_beta` is what a nudge adds that is no multiple of the outer loss. The place is given by its
    number.
    """

    place: int
    inner: Scalar | complex = 1.0
    outer: Scalar | complex = 0.0
    added: Scalar | complex = 0.0
    beta: Scalar | complex = 0.0
    weight: Scalar | complex = 0.0


class Row(NamedTuple):
    """Of a turn: both losses, the norm of the slope, and its products with the ways of phases."""

    inner: Float[Array, ""]
    outer: Float[Array, ""]
    norm: Float[Array, ""]
    along: Inexact[Array, " places"]


def turn_of(place: int, weight: Scalar | complex, nudge: Nudge | None) -> Turn:
    """The slope of the loss with this nudge."""
    if nudge is None:
        return Turn(place, weight=weight)
    if nudge.replays:
        return Turn(place, outer=nudge.beta, weight=weight)
    return Turn(place, added=1.0, beta=nudge.beta, weight=weight)


def sequential_slopes(
    loss: Loss, places: Sequence[Place], turns: Sequence[Turn], nudge: Nudge | None = None
) -> tuple[list[Row], PyTree]:
    """What each turn gives, and the real part of the weighted sum of their slopes.

    The products are with the ways from the first place to each other one: those of a slope at the
    first place with all, of another with its own alone. All turns are compiled once, and once more
    for those in complex numbers.

    Args:
        loss: of the task, free.
        places: the first one is real.
        turns: in any order.
        nudge: one that adds something besides the outer loss, if one does.
    """
    total = jax.tree.map(lambda p: jnp.zeros_like(widened(p)), places[0].phi)
    rows: dict[int, Row] = {}
    for kind in (False, True):
        which = [i for i, turn in enumerate(turns) if places[turn.place].is_complex == kind]
        if which:
            some, total = _run(loss, places, [turns[i] for i in which], nudge, total)
            rows |= {i: jax.tree.map(lambda leaf, n=n: leaf[n], some) for n, i in enumerate(which)}
    return [rows[i] for i in range(len(turns))], total


def _run(
    loss: Loss,
    places: Sequence[Place],
    turns: Sequence[Turn],
    nudge: Nudge | None,
    total: PyTree,
) -> tuple[Row, PyTree]:
    """Turns that are all real or all complex, the rows one on the other.

    In a loop: a compiler runs side by side what is independent, and then keeps the slopes of all at
    once, each as large as phi.
    """
    known = list(dict.fromkeys(turn.place for turn in turns))
    which = jnp.array([known.index(turn.place) for turn in turns])
    columns = [
        jnp.stack(list(map(jnp.asarray, x))) for x in zip(*(t[1:] for t in turns), strict=True)
    ]
    here = [lambda n=n: tuple(places[n]) for n in known]
    products = [partial(_along, places, n) for n in known]

    def turn(total: PyTree, at: tuple[Int[Array, ""], list[Array]]) -> tuple[PyTree, Row]:
        i, numbers = at
        phi, state = jax.lax.switch(i, here)
        slope, losses = _slope(loss.with_state(state), nudge, Turn(0, *numbers), Place(phi))
        row = Row(*losses, norm(slope), jax.lax.switch(i, products, slope))
        part = lambda s, g: s + jnp.real(_times(numbers[-1], g)).astype(s.dtype)
        return jax.tree.map(part, total, slope), row

    total, rows = jax.lax.scan(turn, total, (which, columns))
    return rows, total


def _slope(
    loss: Loss, nudge: Nudge | None, turn: Turn, at: Place
) -> tuple[PyTree, tuple[Scalar, Scalar]]:
    """The slope, and the real parts of both losses."""
    # Of a complex phase that a linear nudge has led, the outer loss need have no derivative.
    straight = at.is_complex and nudge is not None
    wide = jnp.result_type(*map(widened, jax.tree.leaves(at.phi)))

    def value(phi: PyTree) -> tuple[Scalar, tuple[Scalar, Scalar]]:
        inner = loss.inner(phi)
        outer = loss.outer(jax.lax.stop_gradient(phi) if straight else phi)
        mixed = _times(turn.inner, inner) + (0.0 if straight else _times(turn.outer, outer))
        if nudge is not None:
            mixed += _times(turn.added, nudge.with_beta(_cast(turn.beta, wide))(loss, phi))
        return mixed, (jnp.real(inner), jnp.real(outer))

    slope, losses = jax.grad(value, has_aux=True, holomorphic=at.is_complex)(at.phi)
    return jax.tree.map(widened, slope), losses


def _times(number: Scalar | complex, x: jax.Array) -> jax.Array:
    return _cast(number, x.dtype) * x


def _cast(number: Scalar | complex, kind: PyTree) -> jax.Array:
    """To this type, or to complex numbers as wide."""
    is_complex = jnp.iscomplexobj(number)
    return jnp.asarray(number, jnp.result_type(kind, jnp.complex64) if is_complex else kind)


def _along(places: Sequence[Place], n: int, slope: PyTree) -> Inexact[Array, " places"]:
    """Its products with the ways to all places, if it is at the first, or else to the n-th."""
    first, *others = (place.phi for place in places)
    some = any(place.is_complex for place in places)
    one = jnp.result_type(*jax.tree.leaves(slope))
    kind = jnp.result_type(one, jnp.complex64) if some else one
    zero = jnp.zeros((), kind)
    products = [
        optax.tree.vdot(way(first, phi), slope).astype(kind) if n in (0, j) else zero
        for j, phi in enumerate(others, 1)
    ]
    return jnp.stack([zero, *products])


def way(first: PyTree, last: PyTree) -> PyTree:
    """`last - first`, in a wide type."""
    return jax.tree.map(lambda a, b: widened(b) - a.astype(b.dtype), first, last)
