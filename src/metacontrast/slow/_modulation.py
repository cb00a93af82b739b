"""Two systems: slow weights, and fast gains and shifts of neurons that re-use them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._types import PyTree


class Modulation(NamedTuple):
    """The fast parameters phi: of each hidden layer a gain and a shift a neuron; and the head.

    Attributes:
        gain: one array (neurons,) for each hidden layer.
        shift: likewise.
        head: the weights of the last layer.
    """

    gain: list[Float[Array, " neurons"]]
    shift: list[Float[Array, " neurons"]]
    head: PyTree


def modulation(weights: PyTree) -> Modulation:
    """Where fast modulation starts: gains one, shifts zero, and the head of the slow weights.

    So the meta-parameters are a network's weights and nothing else: what the gains and shifts
    start from is a part of those weights already.

    Args:
        weights: of `nets.mlp` or of a `nets.ConvNet`, with at least one hidden layer.

    Returns:
        phi, for `modulated`.

    Raises:
        ValueError: weights of another network, without biases, or without a hidden layer.

    Reference: gains as the fast system: Zucchet et al., 2022, section on modulation; Perez et al.,
    "FiLM", 2018.

    Example:
        >>> from metacontrast.nets import mlp
        >>> net = mlp(1, 40, 2, 1)
        >>> weights = net.init(jax.random.key(0))
        >>> sum(leaf.size for leaf in jax.tree.leaves(modulation(weights)))  # of 1,761
        201
    """
    *body, head = _layers(weights)
    biases = [_bias(layer) for layer in body]
    return Modulation([jnp.ones_like(b) for b in biases], [jnp.zeros_like(b) for b in biases], head)


def modulated(phi: Modulation, weights: PyTree) -> PyTree:
    """The network's weights with phi's gains and shifts in them, and phi's head.

    A neuron that computed `act(w x + b)` computes `act(gain (w x) + b + shift)`; one that is batch
    normalised has its own gain and shift multiplied and shifted. The slow weights act through
    phi's fast ones in both phases, and the contrast is one gradient back through this function.

    Args:
        phi: of `modulation(weights)`'s structure.
        weights: the slow ones.

    Returns:
        Weights, for the network's `apply`.

    Raises:
        ValueError: as `modulation`; or as many gains or shifts as there are not hidden layers.

    Example:
        >>> from metacontrast.nets import mlp
        >>> net = mlp(1, 40, 2, 1)
        >>> weights = net.init(jax.random.key(0))
        >>> same = modulated(modulation(weights), weights)
        >>> bool(net.apply(same, jnp.ones(1)) == net.apply(weights, jnp.ones(1)))
        True
    """
    *body, _ = _layers(weights)
    if not len(body) == len(phi.gain) == len(phi.shift):
        raise ValueError(
            f"phi: holds gains of {len(phi.gain)} layers and shifts of {len(phi.shift)}, but the "
            f"network has {len(body)} hidden ones; start from modulation(weights)."
        )
    layers = [*map(_modulated_layer, body, phi.gain, phi.shift), phi.head]
    if isinstance(weights, eqx.nn.MLP):
        return eqx.tree_at(lambda net: net.layers, weights, tuple(layers))
    return layers


def _modulated_layer(
    layer: PyTree, gain: Float[Array, " neurons"], shift: Float[Array, " neurons"]
) -> PyTree:
    if isinstance(layer, eqx.nn.Linear):
        new = (gain[:, None] * layer.weight, _bias(layer) + shift)
        return eqx.tree_at(lambda linear: (linear.weight, linear.bias), layer, new)
    if "gain" in layer:  # normalisation would undo what comes before it
        return layer | {"gain": gain * layer["gain"], "shift": layer["shift"] + shift}
    w = layer["w"]
    across = gain.reshape((1,) * (w.ndim - 1) + (-1,))
    return layer | {"w": across * w, "b": layer["b"] + shift}


def _bias(layer: PyTree) -> PyTree:
    return layer.bias if isinstance(layer, eqx.nn.Linear) else layer["b"]


def _layers(weights: PyTree) -> list[PyTree]:
    layers: Sequence[PyTree] = weights.layers if isinstance(weights, eqx.nn.MLP) else weights
    known = isinstance(layers, list | tuple) and all(map(_is_layer, layers))
    if not known or len(layers) < 2:
        raise ValueError(
            "weights: must be those of nets.mlp or of a convolutional network of nets, with "
            f"biases and at least one hidden layer, not {type(weights).__name__}"
            + (f" of {len(layers)} layers." if known else "; for others write the two functions.")
        )
    return list(layers)


def _is_layer(layer: PyTree) -> bool:
    if isinstance(layer, eqx.nn.Linear):
        return layer.bias is not None
    return isinstance(layer, dict) and {"w", "b"} <= layer.keys()
