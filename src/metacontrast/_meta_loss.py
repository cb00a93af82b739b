"""The bridge that makes `jax.grad` the chosen rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import jax

from ._check import check
from ._diagnostics import Diagnostics
from ._problem import Problem, PyTree
from ._solve import Solver, settle


class Estimator(Protocol):
    """How a meta-gradient is obtained: anything with this one method."""

    def value_and_grad(
        self,
        problem: Problem,
        solve: Solver,
        theta: PyTree,
        task: PyTree,
        key: jax.Array | None = None,
    ) -> tuple[tuple[jax.Array, Diagnostics], PyTree]:
        """`((meta-loss, diagnostics), meta-gradient)` of one task."""
        ...


def meta_loss(problem: Problem, solve: Solver, estimator: Estimator) -> Callable[..., jax.Array]:
    """How well the learner learned, as an ordinary function whose gradient is the chosen rule.

    `loss(theta, task, key=None) = L_out(phi_0, theta, task)` with `phi_0` what `solve` found.
    `jax.grad(loss)` is the estimator's meta-gradient, so `jit`, `vmap`, means over tasks,
    reparameterised thetas and optax compose with it. Evaluated without a gradient, it runs the
    free phase alone. Build it once: each new closure compiles anew.

    Args:
        problem: what is learned.
        solve: how it is learned, any callable `solve(loss, phi0) -> phi`.
        estimator: how the meta-gradient is obtained.

    Raises:
        TypeError: when the gradient with respect to the task is asked for. The rule does not
            give it, and it must not pass for zero.
        ValueError: bad input, see `check`.

    Example: learn an l2 penalty for ridge regression.
        >>> import jax, jax.numpy as jnp, optax, metacontrast as mc
        >>> mse = lambda w, data: jnp.mean((data.x @ w - data.y) ** 2)
        >>> problem = mc.Problem(
        ...     init=lambda theta, task: jnp.zeros(3),
        ...     inner=lambda w, theta, task: mse(w, task.train) + jnp.exp(theta) * jnp.sum(w**2),
        ...     outer=lambda w, theta, task: mse(w, task.test),
        ... )
        >>> x = jax.random.normal(jax.random.key(0), (20, 3))
        >>> y = x @ jnp.ones(3)
        >>> task = mc.Task(train=mc.Data(x[:10], y[:10]), test=mc.Data(x[10:], y[10:]))
        >>> loss = mc.meta_loss(problem, mc.descend(optax.sgd(0.1), 300), mc.Contrastive(beta=0.01))
        >>> bool(jax.grad(loss)(0.0, task) > 0)  # the data are noiseless: penalise less
        True
    """

    @jax.custom_vjp
    def loss(theta: PyTree, task: PyTree, key: Any) -> jax.Array:
        free = problem.loss(theta, task, key=key)
        return free.outer(settle(solve, free, problem.init(theta, task)).phi)

    def forward(theta: Any, task: Any, key: Any) -> tuple[jax.Array, PyTree]:
        if any(leaf.perturbed for leaf in jax.tree.leaves(task)):
            raise TypeError(
                "task: the gradient of a meta_loss with respect to the task is not defined by the "
                "rule; make what you want to learn of it (its weights, say) a part of theta."
            )
        theta, task, key = jax.tree.map(lambda leaf: leaf.value, (theta, task, key))
        check(problem, theta, task)  # again: here an eager jax.grad knows the numbers
        (value, _), grad = estimator.value_and_grad(problem, solve, theta, task, key)
        return value, grad

    def backward(grad: PyTree, cotangent: Any) -> tuple[PyTree, None, None]:
        return jax.tree.map(lambda g: g * cotangent, grad), None, None

    loss.defvjp(forward, backward, symbolic_zeros=True)

    def checked(theta: PyTree, task: PyTree, key: jax.Array | None = None) -> jax.Array:
        check(problem, theta, task)
        return loss(theta, task, key)

    return checked
