"""The sine experiment in the nearest published settings.

They are those of the authors' published code (github.com/smonsays/contrastive-meta-learning, of
2022, bandit/run_fewshot.py, data set "sinusoid"), the only ones there are: the talk names the
network, the points and the tasks alone. Departures from that code, in all four methods:

- amplitudes are U[0.1, 5], as in the talk, where the code has U[0.1, 0.5];
- training tasks are drawn afresh (25 of them 1,000 times, as many as its data set holds, once);
- theta is judged, once and as meta-training left it, on 1,000 tasks with 100 query points each, the
  same as of every other method, where the code has 100 tasks with 10.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

import metacontrast as mc
from metacontrast.nets import Net

Squares = Callable[[PyTree, mc.Data], jax.Array]


def init(net: Net, key: jax.Array) -> PyTree:
    """The published first weights: uniform with variance 1/fan-in; biases are zero."""
    phi = net.init(key)
    leaves, structure = jax.tree.flatten(phi)
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(structure, list(map(_drawn, keys, leaves)))


def _drawn(key: jax.Array, leaf: jax.Array) -> jax.Array:
    if leaf.ndim < 2:
        return jnp.zeros_like(leaf)
    side = jnp.sqrt(3 / leaf.shape[1])
    return jax.random.uniform(key, leaf.shape, leaf.dtype, -side, side)


def synapse(squares: Squares, lam: float, batch: int | None) -> mc.Problem:
    """Omega is learned, lambda is fixed: the code's "imaml".

    The code writes 10 times the mean of (phi - omega)^2 over 1,761 weights, lambda = 10/1761 in
    the paper's sum.

    Args:
        squares: the sum of squared errors.
        lam: lambda.
        batch: points of a step, drawn with replacement, as the code draws them also where they are
            as many as there are; of the training and of the test points those of the same numbers.
            None: all of them.
    """
    pull = mc.Synapse(log_lam=jnp.log(lam))

    return mc.Problem(
        init=lambda theta, task: theta.omega,
        inner=lambda phi, theta, task: (
            squares(phi, task.train) + pull._replace(omega=theta.omega).pull(phi)
        ),
        outer=lambda phi, theta, task: squares(phi, task.test),
        sample=None if batch is None else partial(_some_points, batch),
    )


def _some_points(batch: int, task: mc.Task, key: jax.Array) -> mc.Task:
    chosen = jax.random.choice(key, task.train.x.shape[0], (batch,))
    return jax.tree.map(lambda leaf: leaf[chosen], task)


# Added to the second moments of every Adam, under the root. It decides: meta-gradients of omega are
# small beside its root, 3e-4, and without it each of them moves omega by the whole outer rate.
EPS_ROOT = 2.0**-23


def adam(rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """Of a task."""
    return optax.adam(rate, eps_root=EPS_ROOT)


def optimizer(rate: optax.ScalarOrSchedule, contrastive: bool) -> optax.GradientTransformation:
    """Of theta: without clipping, as published."""
    return optax.adamw(rate, eps_root=EPS_ROOT) if contrastive else adam(rate)


def rule(beta: float | None, rate: float, nudged: int) -> mc.Contrastive:
    """The forward contrast; Adam starts the nudged phase anew, from where the free one ended.

    Departure, where there are mini-batches: its steps draw those of the free phase's first ones.
    """
    return mc.Contrastive(beta, nudged=mc.descend(adam(rate), nudged))
