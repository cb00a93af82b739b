"""A layered network, seen from inside: what each layer receives, and what a synapse can know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp

from .._problem import PyTree

Activation = Callable[[jax.Array], jax.Array]
Layers = list[tuple[jax.Array, jax.Array]]
States = list[jax.Array]  # one a layer


def layers(phi: PyTree) -> Layers:
    """`[(W_1, b_1), ..., (W_L, b_L)]` of a phi whose leaves come in this order, as of `nets.mlp`.

    W_l has shape (outputs, inputs) of its layer. The last layer is linear.
    """
    leaves = jax.tree.leaves(phi)
    pairs = list(zip(leaves[::2], leaves[1::2], strict=False))
    chained = all(jnp.shape(w)[:1] == jnp.shape(b) for w, b in pairs) and all(
        jnp.shape(b) == jnp.shape(w)[1:] for (_, b), (w, _) in pairwise(pairs)
    )
    if len(leaves) % 2 or len(pairs) < 2 or not chained:
        raise ValueError(
            "phi: must have the leaves W_1, b_1, W_2, b_2, ... of at least two layers, W_l of "
            f"shape (outputs, inputs), as nets.mlp has; not {[jnp.shape(x) for x in leaves]}."
        )
    return pairs


def forward(net: Layers, x: jax.Array, f: Activation, added: Any = 0.0) -> tuple[States, States]:
    """What each layer hears, `h_(l-1)`, and what comes of it, `a_l = W_l h_(l-1) + b_l + added_l`.

    `h_0 = x` and `h_l = f(a_l)`; the output is the last a.
    """
    h = x
    heard: States = []
    sums: States = []
    for i, (w, b) in enumerate(net):
        a = w @ h + b + (added[i] if isinstance(added, Sequence) else added)
        heard, sums, h = [*heard, h], [*sums, a], f(a)
    return heard, sums


def output(phi: PyTree, x: jax.Array, f: Activation) -> jax.Array:
    """The feedforward network's answer to one example."""
    return forward(layers(phi), x, f)[1][-1]


def slope(f: Activation, a: jax.Array, signal: jax.Array) -> jax.Array:
    """`f'(a) signal`, unit by unit."""
    return jax.jvp(f, (a,), (signal,))[1]


def local(phi: PyTree, signals: Sequence[jax.Array], heard: Sequence[jax.Array]) -> PyTree:
    """A gradient from what meets at each synapse: `signal_l h_(l-1)'` of W_l, `signal_l` of b_l."""
    leaves = [leaf for s, h in zip(signals, heard, strict=True) for leaf in (jnp.outer(s, h), s)]
    return jax.tree.unflatten(jax.tree.structure(phi), leaves)
