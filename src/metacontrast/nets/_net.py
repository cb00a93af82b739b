"""A network as a pair of functions: draw its weights, apply them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp

from .._checked import checked
from .._must import Count, Index, Must
from .._precision import Precision
from .._types import Key, PyTree
from ._product import product


class Net(NamedTuple):
    """`init(key) -> phi` draws weights; `apply(phi, x) -> y` is the output for one example."""

    init: Callable[[Key], PyTree]
    apply: Callable[[PyTree, jax.Array], jax.Array]


def net(make: Callable[[Key], eqx.Module], precision: Precision = "highest") -> Net:
    """Any equinox module as a `Net`: its floating arrays are phi, all else is fixed.

    Args:
        make: `key -> module`.
        precision: of its products, as `jax.default_matmul_precision` takes it; those that say one
            of their own keep it.

    Example:
        >>> linear = net(lambda key: eqx.nn.Linear(2, 1, key=key))
        >>> phi = linear.init(jax.random.key(0))
        >>> linear.apply(phi, jnp.ones(2)).shape
        (1,)
    """
    shape = eqx.filter_eval_shape(lambda: make(jax.random.key(0)))  # computes nothing
    fixed = eqx.partition(shape, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))[1]

    @checked
    def init(key: Key) -> PyTree:
        return eqx.filter(make(key), eqx.is_inexact_array)

    @checked
    def apply(phi: PyTree, x: jax.Array) -> jax.Array:
        with jax.default_matmul_precision(precision):
            return eqx.combine(phi, fixed)(x)

    return Net(init, apply)


MLPWeights: TypeAlias = Annotated[
    PyTree, Must("weights as init draws them", lambda phi: isinstance(phi, eqx.nn.MLP))
]


def mlp(
    inputs: Count,
    width: Count,
    depth: Index,
    outputs: Count,
    activation: Callable[[jax.Array], jax.Array] = jnp.tanh,
    precision: Precision = "highest",
) -> Net:
    """A multilayer perceptron with `depth` hidden layers of `width` units.

    Weights and biases are drawn uniformly within 1/sqrt(fan-in). phi is an `equinox.nn.MLP`; its
    products are ordered for speed (see `product`).

    Args:
        inputs: of one example.
        width: of each hidden layer.
        depth: number of hidden layers.
        outputs: of one example.
        activation: elementwise, of the hidden layers.
        precision: of the factors of all products: "highest", as they are; "tensorfloat32" or
            "bfloat16", rounded where the machine is faster for it.

    Example:
        >>> sine_net = mlp(1, 40, 2, 1)
        >>> phi = sine_net.init(jax.random.key(0))
        >>> sum(leaf.size for leaf in jax.tree.leaves(phi))
        1761
    """
    module = net(lambda key: eqx.nn.MLP(inputs, outputs, width, depth, activation, key=key))

    @checked
    def apply(phi: MLPWeights, x: jax.Array) -> jax.Array:
        *hidden, last = phi.layers
        for layer in hidden:
            x = activation(product(layer.weight, x, precision) + layer.bias)
        return product(last.weight, x, precision) + last.bias

    return Net(module.init, apply)
