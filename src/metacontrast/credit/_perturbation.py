"""Node perturbation: credit from noise and one number that says whether it helped."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from .._must import Count, Positive
from .._precision import matmul
from .._types import Key, PyTree
from ._layers import Activation, States, Vector, forward, layers, local, output
from ._rule import Rule, credit_rule


def node_perturbation(scale: Positive, samples: Count, activation: Activation = jnp.tanh) -> Rule:
    """Node perturbation: noise on every unit, and whether the outcome was worse with it.

        delta_l = mean_k xi_lk [ error . y(+s xi_k) - error . y(-s xi_k) ] / (2 s),
        dW_l = delta_l h_(l-1)',   xi ~ N(0, 1) on the summed input of every unit, y the output.

    Unbiased up to `O(scale^2)` for smooth networks. Its variance grows with the number of units
    and falls with `samples`. The noise of an example follows from the key of the step and from x,
    so that it is the same in every phase and in mini-batches of any order.

    Departure: the outcome is the loss to first order in the output, `error . y`, not the loss.

    Args:
        scale: s, standard deviation of the noise, in units of the summed input; positive.
        samples: antithetic pairs averaged, at least 1.
        activation: of the hidden units, elementwise; the output is linear.

    Returns:
        A rule for `nets.mlp` weights; see `with_credit_rule`.

    Raises:
        ValueError: scale or samples not positive; from the rule, no key.

    Reference: Williams, 1992; Werfel, Xie, Seung, "Learning curves for stochastic gradient descent
    in linear feedforward networks", 2005.

    Example:
        >>> from metacontrast.nets import mlp
        >>> net = mlp(1, 3, 2, 1)
        >>> phi, x = net.init(jax.random.key(0)), jnp.ones(1)
        >>> rule = node_perturbation(1e-2, samples=10_000)
        >>> slope = lambda f: jax.grad(lambda phi: f(phi, x)[0])(phi).layers[0].bias[0]
        >>> estimate = slope(lambda phi, x: rule(phi, x, jax.random.key(1)))
        >>> bool(abs(estimate - slope(net.apply)) < 0.1)
        True
    """

    def backward(phi: PyTree, x: Vector, error: Vector, key: Key | None) -> PyTree:
        if key is None:
            raise ValueError(
                "key: node perturbation draws noise; pass a jax.random.key as the argument after "
                "the task, or as the rule's third."
            )
        net = layers(phi)
        inputs, sums = forward(net, x, activation)

        def sample(key: Key) -> States:
            keys = jax.random.split(key, len(sums))
            noise = [
                jax.random.normal(k, a.shape, a.dtype) for k, a in zip(keys, sums, strict=True)
            ]
            ends = [
                forward(net, x, activation, [sign * scale * xi for xi in noise])[1][-1]
                for sign in (1, -1)
            ]
            outcome = matmul(error, ends[0] - ends[1]) / (2 * scale)
            return [outcome * xi for xi in noise]

        keys = jax.random.split(jax.random.fold_in(key, _fingerprint(x)), samples)
        signals = jax.tree.map(lambda s: jnp.mean(s, 0), jax.vmap(sample)(keys))
        return local(phi, signals, inputs)

    return credit_rule(lambda phi, x: output(phi, x, activation), backward)


def _fingerprint(x: Vector) -> jax.Array:
    """A number that tells examples apart, whatever their place in the batch."""
    bits = jax.lax.bitcast_convert_type(jnp.ravel(x).astype(jnp.float32), jnp.uint32)
    # Odd multipliers, modulo 2^32: no change of a single entry is lost.
    return jnp.sum(bits * (2 * jnp.arange(bits.size, dtype=jnp.uint32) + 1), dtype=jnp.uint32)
