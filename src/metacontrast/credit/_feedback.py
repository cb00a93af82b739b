"""Errors that travel back by fixed weights of their own."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from .._precision import matmul
from .._types import Key, PyTree
from ._layers import Activation, Vector, forward, layers, local, output, slope
from ._rule import Rule, credit_rule


def random_feedback(key: Key, phi: PyTree, direct: bool = False) -> tuple[jax.Array, ...]:
    """Feedback matrices for a network of phi's shapes, uniform within 1/sqrt(columns).

    Draw them once, and give them to every phase and every task.

    Args:
        key: draws them.
        phi: weights of the network, or their shapes (`jax.eval_shape`).
        direct: False: one for each layer but the first, of W_l's shape; True: one for each hidden
            layer, of shape (outputs, width).

    Example:
        >>> from metacontrast.nets import mlp
        >>> phi = mlp(1, 40, 2, 1).init(jax.random.key(0))
        >>> [b.shape for b in random_feedback(jax.random.key(1), phi)]
        [(40, 40), (1, 40)]
        >>> [b.shape for b in random_feedback(jax.random.key(1), phi, direct=True)]
        [(1, 40), (1, 40)]
    """
    above = [w for w, _ in layers(phi)[1:]]
    shapes = [(above[-1].shape[0] if direct else w.shape[0], w.shape[1]) for w in above]
    keys = jax.random.split(key, len(shapes))
    return tuple(
        jax.random.uniform(k, shape, w.dtype, -1, 1) / jnp.sqrt(shape[1]).astype(w.dtype)
        for k, shape, w in zip(keys, shapes, above, strict=True)
    )


def feedback_alignment(feedback: Sequence[jax.Array], activation: Activation = jnp.tanh) -> Rule:
    """Feedback alignment: backpropagation with fixed matrices B_l in place of the W_l.

        delta_L = error,   delta_(l-1) = f'(a_(l-1)) B_l' delta_l,   dW_l = delta_l h_(l-1)'

    Args:
        feedback: B_2, ..., B_L, of the shapes of W_2, ..., W_L; see `random_feedback`.
        activation: of the hidden units, elementwise; the output is linear.

    Returns:
        A rule for `nets.mlp` weights; see `with_credit_rule`.

    Raises:
        ValueError: from the rule, if the shapes are not those.

    Reference: Lillicrap, Cownden, Tweed, Akerman, "Random synaptic feedback weights support error
    backpropagation for deep learning", 2016.

    Example:
        >>> from metacontrast.nets import mlp
        >>> net = mlp(1, 3, 2, 1)
        >>> phi, x = net.init(jax.random.key(0)), jnp.ones(1)
        >>> rule = feedback_alignment([phi.layers[1].weight, phi.layers[2].weight])
        >>> grads = [jax.grad(lambda phi, f=f: f(phi, x)[0])(phi) for f in (rule, net.apply)]
        >>> all(bool(jnp.allclose(a, b)) for a, b in zip(*map(jax.tree.leaves, grads)))
        True
    """

    def backward(phi: PyTree, x: Vector, error: Vector, key: Key | None) -> PyTree:
        net = layers(phi)
        _check(feedback, [w.shape for w, _ in net[1:]])
        inputs, sums = forward(net, x, activation)
        signals = [error]
        for b, a in zip(reversed(feedback), reversed(sums[:-1]), strict=True):
            signals.insert(0, slope(activation, a, matmul(b.T, signals[0])))
        return local(phi, signals, inputs)

    return credit_rule(lambda phi, x: output(phi, x, activation), backward)


def direct_feedback_alignment(
    feedback: Sequence[jax.Array], activation: Activation = jnp.tanh
) -> Rule:
    """Direct feedback alignment: the error reaches each hidden layer by a matrix of its own.

        delta_L = error,   delta_l = f'(a_l) B_l' error,   dW_l = delta_l h_(l-1)'

    Args:
        feedback: B_1, ..., B_(L-1), of shapes (outputs, width of layer l); see `random_feedback`.
        activation: of the hidden units, elementwise; the output is linear.

    Returns:
        A rule for `nets.mlp` weights; see `with_credit_rule`.

    Raises:
        ValueError: from the rule, if the shapes are not those.

    Reference: Nokland, "Direct feedback alignment provides learning in deep neural networks", 2016.

    Example:
        >>> phi = [jnp.ones((2, 1)), jnp.zeros(2), jnp.ones((1, 2)), jnp.zeros(1)]
        >>> rule = direct_feedback_alignment([jnp.array([[1.0, -1.0]])], lambda a: a)
        >>> jax.grad(lambda phi: rule(phi, jnp.array([3.0]))[0])(phi)[0].tolist()
        [[3.0], [-3.0]]
    """

    def backward(phi: PyTree, x: Vector, error: Vector, key: Key | None) -> PyTree:
        net = layers(phi)
        _check(feedback, [(error.shape[0], w.shape[1]) for w, _ in net[1:]])
        inputs, sums = forward(net, x, activation)
        hidden = zip(feedback, sums[:-1], strict=True)
        signals = [slope(activation, a, matmul(b.T, error)) for b, a in hidden]
        return local(phi, [*signals, error], inputs)

    return credit_rule(lambda phi, x: output(phi, x, activation), backward)


def _check(feedback: Sequence[jax.Array], wanted: list[tuple[int, ...]]) -> None:
    if (shapes := [jnp.shape(b) for b in feedback]) != wanted:
        raise ValueError(
            f"feedback: must have the shapes {wanted}, not {shapes}; draw it by "
            "random_feedback(key, phi), with direct=True for direct feedback alignment."
        )
