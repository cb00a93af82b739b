"""A causal transformer, small, for sequences of symbols."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp

from .._must import Count
from .._precision import Precision
from ._net import Net, net


class _Block(eqx.Module):
    """Attention to what came before, then a perceptron; each on normalised inputs, added."""

    attention: eqx.nn.MultiheadAttention
    up: eqx.nn.Linear
    down: eqx.nn.Linear
    norms: tuple[eqx.nn.LayerNorm, eqx.nn.LayerNorm]

    def __init__(self, width: int, heads: int, key: jax.Array) -> None:
        keys = jax.random.split(key, 3)
        self.attention = eqx.nn.MultiheadAttention(heads, width, key=keys[0])
        self.up = eqx.nn.Linear(width, 4 * width, key=keys[1])
        self.down = eqx.nn.Linear(4 * width, width, key=keys[2])
        self.norms = (eqx.nn.LayerNorm(width), eqx.nn.LayerNorm(width))

    def __call__(self, x: jax.Array) -> jax.Array:
        h = jax.vmap(self.norms[0])(x)
        x = x + self.attention(h, h, h, mask=jnp.tri(len(x), dtype=bool))
        hidden = jax.vmap(self.up)(jax.vmap(self.norms[1])(x))
        return x + jax.vmap(self.down)(jax.nn.gelu(hidden))


class _Transformer(eqx.Module):
    symbols: jax.Array
    places: jax.Array
    blocks: list[_Block]
    norm: eqx.nn.LayerNorm
    out: eqx.nn.Linear

    def __init__(
        self, symbols: int, length: int, width: int, depth: int, heads: int, key: jax.Array
    ) -> None:
        keys = jax.random.split(key, depth + 3)
        self.symbols = 0.1 * jax.random.normal(keys[0], (symbols, width))
        self.places = 0.1 * jax.random.normal(keys[1], (length, width))
        self.out = eqx.nn.Linear(width, symbols, key=keys[2])
        self.blocks = [_Block(width, heads, k) for k in keys[3:]]
        self.norm = eqx.nn.LayerNorm(width)

    def __call__(self, x: jax.Array) -> jax.Array:
        h = self.symbols[x] + self.places[: len(x)]
        for block in self.blocks:
            h = block(h)
        return jax.vmap(self.out)(jax.vmap(self.norm)(h))


def transformer(
    symbols: Count,
    length: Count,
    width: Count,
    depth: Count,
    heads: Count,
    precision: Precision = "highest",
) -> Net:
    """A causal transformer: from a sequence of symbols (t,) to logits (t, symbols) of the next.

    Blocks of attention and of a perceptron four times as wide, each on layer-normalised inputs
    (Vaswani et al., 2017; normalised first, as Xiong et al., 2020); learned places; gelu.

    Args:
        symbols: how many there are; the sequence holds whole numbers below it.
        length: of the longest sequence.
        width: of the hidden states; a multiple of `heads`.
        depth: how many blocks.
        heads: of attention.
        precision: of all products, see `net`.

    Raises:
        ValueError: a width that is no multiple of `heads`.

    Example:
        >>> small = transformer(symbols=28, length=64, width=32, depth=2, heads=2)
        >>> phi = small.init(jax.random.key(0))
        >>> small.apply(phi, jnp.array([3, 1, 4])).shape
        (3, 28)
        >>> sum(leaf.size for leaf in jax.tree.leaves(phi))
        29084
    """
    if width % heads:
        raise ValueError(f"width: must be a multiple of heads={heads}, not {width}.")
    make = lambda key: _Transformer(symbols, length, width, depth, heads, key)
    return net(make, precision)
