"""A slow body with a fast head: features are meta-learned, a linear read-out is learned at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from .._problem import Loss, Problem, PyTree, Task
from .._solve import Solution, Solver, positive


class HeadTheta(NamedTuple):
    """What is meta-learned beside a fast head.

    Attributes:
        body: weights of the features.
        log_fit: log gamma, how much fitting the support set counts against small weights.
        log_scale: log s, the scale of the targets: an inverse temperature of the class logits.
    """

    body: PyTree
    log_fit: Any = 2.0
    log_scale: Any = 2.0


@dataclass(frozen=True)
class RidgeLoss:
    """The inner loss of a `ridge_head`, which says so to `ridge_newton`."""

    def __call__(self, phi: jax.Array, theta: HeadTheta, z: Task) -> jax.Array:
        """The scalar loss."""
        f, y = z.train
        classes = phi.shape[-1]
        targets = jnp.exp(theta.log_scale) * (
            jax.nn.one_hot(y, classes, dtype=f.dtype) - 1 / classes
        )
        return jnp.sum(phi**2) + jnp.exp(theta.log_fit) * jnp.sum((f @ phi - targets) ** 2)


def ridge_head(features: Callable[[PyTree, Task], Task], classes: int) -> Problem:
    """A linear head phi (d, classes) on slow features: ridge regression, judged by cross-entropy.

        L_in  = |phi|^2 + gamma sum_i |f_i phi - s (onehot(y_i) - 1/C)|^2    over the support set
        L_out = mean_j CE(f_j phi, y_j)                                      over the query set

    Both are in units in which the nudge follows the curvature by itself: that of `L_in` is at least
    2 whatever gamma and s become, that of `L_out` at most `max_j |f_j|^2 / 2`. With feature rows of
    length about one, beta = 1 is a small nudge, and stays one; and as `L_out` grows only linearly
    in phi, a negative nudge is safe too, so use the symmetric scheme. (Written the usual way,
    `|F phi - Y|^2 + lambda |phi|^2` with a temperature in `L_out`, a lambda that is learned smaller
    lets a fixed nudge outgrow it, and meta-learning collapses.)

    Args:
        features: `(body, task) -> task` with features in place of the inputs: support (n, d) and
            query (m, d), in rows of length about one. Computed once a task, and gone back through
            once by the contrast. With one more axis in front of all, features and y, there is one
            head for each of its rows: several splits of the same examples into support and query,
            whose `L_in` add up while `L_out` is their mean.
        classes: C; the tasks' y are integers below it.

    Returns:
        A `Problem` whose theta is a `HeadTheta` and whose tasks are `Task`s.

    Reference: ridge regression as a base learner is of Bertinetto, Henriques, Torr, Vedaldi,
    "Meta-learning with differentiable closed-form solvers", 2019, who go back through the solver;
    here it is contrasted.

    Example:
        >>> import metacontrast as mc
        >>> linear = lambda body, task: mc.Task(*(mc.Data(half.x @ body, half.y) for half in task))
        >>> problem = mc.ridge_head(linear, classes=2)
        >>> estimator = mc.Contrastive(1.0, "symmetric", nudged=mc.ridge_newton(4))
        >>> loss = mc.meta_loss(problem, mc.ridge_newton(), estimator)
        >>> data = mc.Data(jnp.eye(2), jnp.array([0, 1]))
        >>> theta = mc.HeadTheta(jnp.eye(2))
        >>> bool(jax.grad(loss)(theta, mc.Task(data, data)).log_scale < 0)  # more scale, less loss
        True
    """

    def init(theta: HeadTheta, task: Task) -> jax.Array:
        support = jax.eval_shape(features, theta.body, task).train.x
        return jnp.zeros((*support.shape[:-2], support.shape[-1], classes), support.dtype)

    def outer(phi: jax.Array, theta: HeadTheta, z: Task) -> jax.Array:
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(z.test.x @ phi, z.test.y))

    return Problem(init, RidgeLoss(), outer, lambda theta, task: features(theta.body, task))


def ridge_newton(steps: int = 1) -> Solver:
    """Steps by the exact inverse of the inner curvature, solved in sample space; for `ridge_head`.

        phi <- phi - (2 + 2 gamma F'F)^-1 dL/dphi,
        (1 + gamma F'F)^-1 = 1 - gamma F' (1 + gamma F F')^-1 F   (Woodbury),

    one n x n factorisation for n support examples, whatever the number of features. The first step
    solves the free phase. In a nudged one each divides the error by `2 / (|beta| curvature of
    L_out)`, which is at least 4 for beta = 1 and rows of length one: 4 steps are plenty.

    Args:
        steps: at least 1.

    Raises:
        TypeError: when the loss is not that of a `ridge_head`.
    """
    positive("steps", steps)

    def solve(loss: Any, phi0: PyTree, state: PyTree = None) -> Solution:
        if not (isinstance(loss, Loss) and isinstance(loss.problem.inner, RidgeLoss)):
            raise TypeError(
                "solve: ridge_newton needs the loss of a ridge_head problem; for other losses use "
                "newton_cg or closed_form."
            )
        f, gamma = loss.z.train.x, jnp.exp(loss.theta.log_fit)
        across = jnp.swapaxes(f, -1, -2)
        gram = gamma * (f @ across)
        inverse = jnp.linalg.inv(
            gram + jnp.broadcast_to(jnp.eye(f.shape[-2], dtype=f.dtype), gram.shape)
        )
        phi = phi0
        for _ in range(steps):
            g = jax.grad(loss)(phi) / 2
            phi = phi - g + gamma * (across @ (inverse @ (f @ g)))
        return Solution(phi, None, steps)

    return solve
