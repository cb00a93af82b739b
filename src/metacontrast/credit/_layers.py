"""The inside of a layered network: what each layer receives, and what a synapse can know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._precision import matmul
from .._types import PyTree

Vector: TypeAlias = Float[Array, " units"]
Activation: TypeAlias = Callable[[Vector], Vector]
Layers: TypeAlias = list[tuple[Float[Array, "outputs inputs"], Vector]]
States: TypeAlias = list[Vector]  # one a layer


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


def forward(
    net: Layers, x: Vector, f: Activation, extra: States | None = None
) -> tuple[States, States]:
    """The inputs `h_(l-1)` of all layers, and their sums, `a_l = W_l h_(l-1) + b_l + extra_l`.

    `h_0 = x` and `h_l = f(a_l)`; the output is the last a.
    """
    h = x
    inputs: States = []
    sums: States = []
    for i, (w, b) in enumerate(net):
        a = matmul(w, h) + b
        a = a if extra is None else a + extra[i]
        inputs, sums, h = [*inputs, h], [*sums, a], f(a)
    return inputs, sums


def output(phi: PyTree, x: Vector, f: Activation) -> Vector:
    """The feedforward network's output for one example."""
    return forward(layers(phi), x, f)[1][-1]


def slope(f: Activation, a: Vector, signal: Vector) -> Vector:
    """`f'(a) signal`, unit by unit."""
    return jax.jvp(f, (a,), (signal,))[1]


def local(phi: PyTree, signals: Sequence[Vector], inputs: Sequence[Vector]) -> PyTree:
    """A gradient from what meets at each synapse: `signal_l h_(l-1)'` of W_l, `signal_l` of b_l."""
    leaves = [leaf for s, h in zip(signals, inputs, strict=True) for leaf in (jnp.outer(s, h), s)]
    return jax.tree.unflatten(jax.tree.structure(phi), leaves)
