"""A fast head on slow features: a linear read-out that is learned at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from .._loss import Loss
from .._must import Count
from .._precision import matmul
from .._problem import Data, InverseCurvature, Objective, Problem, Task
from .._solver._base import Solver, State
from .._solver._descend import value_and_slope
from .._types import PyTree, Scalar, Step


class HeadTheta(NamedTuple):
    """What is meta-learned of a fast head.

    Attributes:
        log_fit: log gamma, how much fitting the support set counts against small weights.
        log_scale: log s, the scale of the targets: an inverse temperature of the class logits.
    """

    log_fit: Scalar | float = 2.0
    log_scale: Scalar | float = 2.0


class Splits(NamedTuple):
    """Several splits of examples into support and query: as a `Task`, with one more axis in front.

    A type of its own, because the first axis of a `Task` is that of its examples.
    """

    train: Data
    test: Data


class Woodbury(NamedTuple):
    """`(2 a + 2 gamma F'F)^-1`, by the inverse of a matrix of all pairs of examples."""

    features: Float[Array, "... n d"]
    inverse: Float[Array, "... n n"]  # (1 + gamma/a F F')^-1
    ratio: Scalar  # gamma / a
    a: float

    def apply(self, g: PyTree) -> PyTree:
        """`1/(2a) [g - gamma/a F' (1 + gamma/a F F')^-1 F g]`."""
        across = jnp.swapaxes(self.features, -1, -2)
        in_span = matmul(across, matmul(self.inverse, matmul(self.features, g)))
        return (g - self.ratio * in_span) / (2 * self.a)


@dataclass(frozen=True)
class RidgeLoss(Objective):
    """The inner loss of a `ridge_head`."""

    def __call__(self, phi: PyTree, theta: HeadTheta, z: Task | Splits) -> Scalar:
        """The scalar loss."""
        f, y = z.train
        classes = phi.shape[-1]
        centred = known(jax.nn.one_hot(y, classes, dtype=f.dtype), y, classes) - 1 / classes
        misfit = matmul(f, phi) - jnp.exp(theta.log_scale) * centred
        return jnp.sum(phi**2) + jnp.exp(theta.log_fit) * jnp.sum(misfit**2)

    def inverse_curvature(
        self, theta: HeadTheta, z: Task | Splits, damping: float = 0.0
    ) -> InverseCurvature:
        """One n x n inverse for n support examples, whatever the number of features."""
        f, a = z.train.x, 1 + damping / 2
        ratio = jnp.exp(theta.log_fit) / a
        gram = ratio * matmul(f, jnp.swapaxes(f, -1, -2))
        unit = jnp.broadcast_to(jnp.eye(f.shape[-2], dtype=f.dtype), gram.shape)
        return Woodbury(f, jnp.linalg.inv(gram + unit), ratio, a)


def ridge_head(classes: Count) -> Problem:
    """A linear head phi (d, classes) on features: ridge regression, judged by cross-entropy.

        L_in  = |phi|^2 + gamma sum_i |f_i phi - s (onehot(y_i) - 1/C)|^2    over the support set
        L_out = mean_j CE(f_j phi, y_j)                                      over the query set

    Both are in units in which the nudge follows the curvature by itself: that of `L_in` is at least
    2 whatever gamma and s become, that of `L_out` at most `max_j |f_j|^2 / 2`. With feature rows of
    length about one, beta = 1 is a small nudge, and stays one; and as `L_out` grows only linearly
    in phi, a negative nudge is safe too, so use the symmetric scheme. (Written the usual way,
    `|F phi - Y|^2 + lambda |phi|^2` with a temperature in `L_out`, a lambda that is learned smaller
    lets a fixed nudge outgrow it, and meta-learning collapses.)

    A task is a `Task` whose x are features: support (n, d) and query (m, d), in rows of length
    about one, and whose y are integers from 0 to C - 1, or the loss is NaN. The features of a slow
    body come in by composition, `loss(theta.head, features(theta.body, task))`: they are computed
    once a task, and gone back through once by the contrast. Of `Splits` there is one head each;
    their `L_in` add up, while `L_out` is their mean.

    Args:
        classes: C.

    Returns:
        A `Problem` whose theta is a `HeadTheta`.

    Reference: ridge regression as a base learner is of Bertinetto, Henriques, Torr, Vedaldi,
    "Meta-learning with differentiable closed-form solvers", 2019, who go back through the solver;
    here it is contrasted.

    Example: a linear body.
        >>> import metacontrast as mc
        >>> estimator = mc.Contrastive(1.0, "symmetric", nudged=ridge_newton(4))
        >>> head_loss = mc.meta_loss(ridge_head(classes=2), ridge_newton(), estimator)
        >>> features = lambda body, task: mc.Task(*(mc.Data(h.x @ body, h.y) for h in task))
        >>> loss = lambda theta, task: head_loss(theta["head"], features(theta["body"], task))
        >>> data = mc.Data(jnp.eye(2), jnp.array([0, 1]))
        >>> theta = {"body": jnp.eye(2), "head": HeadTheta()}
        >>> grad = jax.grad(loss)(theta, mc.Task(data, data))
        >>> bool(grad["head"].log_scale < 0), grad["body"].shape  # more scale, less loss
        (True, (2, 2))
    """

    def init(theta: HeadTheta, z: Task | Splits) -> PyTree:
        *splits, _, width = z.train.x.shape
        return jnp.zeros((*splits, width, classes), z.train.x.dtype)

    def outer(phi: PyTree, theta: HeadTheta, z: Task | Splits) -> Scalar:
        scores, y = known(matmul(z.test.x, phi), z.test.y, classes), z.test.y
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(scores, y))

    return Problem(init, RidgeLoss(), outer)


def known(rows: Float[Array, "... c"], y: Array, classes: int) -> Float[Array, "... c"]:
    """The rows, NaN where the label is no class: it would pass for another one, or for none."""
    return jnp.where(((y >= 0) & (y < classes))[..., None], rows, jnp.nan)


@dataclass(frozen=True)
class RidgeNewton(Solver):
    """What `ridge_newton` returns. Its memory: the inverse curvature, factorised once a phase."""

    def init(self, loss: Loss, phi: PyTree, memory: PyTree = None) -> State:
        """The inverse, of this theta and task: that of an earlier phase is of no use."""
        inverse = loss.inverse_curvature()
        if inverse is None:
            raise TypeError(
                "solver: ridge_newton needs an inner loss that knows the inverse of its curvature "
                "(Objective.inverse_curvature), as that of a ridge_head does, and "
                f"{loss.problem.inner!r} does not; for other losses use newton_cg or closed_form."
            )
        return State(phi, inverse)

    def step(self, loss: Loss, state: State, t: Step) -> State:
        """`phi - H^-1 g`."""
        _, slope = value_and_slope(loss, state.phi)
        move = state.memory.apply(slope)
        return state._replace(phi=jax.tree.map(jnp.subtract, state.phi, move))


def ridge_newton(steps: Count = 1) -> Solver:
    """Steps by the exact inverse of the inner curvature, solved in sample space; for `ridge_head`.

        phi <- phi - (2 + 2 gamma F'F)^-1 dL/dphi,
        (1 + gamma F'F)^-1 = 1 - gamma F' (1 + gamma F F')^-1 F   (Woodbury),

    one n x n factorisation a phase for n support examples, whatever the number of features; on all
    data. The first step solves the free phase, and that of a linear nudge, whose damping is in the
    inverse. With the outer nudge each divides the error by `2 / (|beta| curvature of L_out)`, which
    is at least 4 for beta = 1 and rows of length one: 4 steps are plenty.

    Args:
        steps: at least 1.

    Raises:
        ValueError: steps not positive.
        TypeError: from the solver, when the inner loss does not know its curvature.
    """
    return RidgeNewton(steps=steps, sampled=False)
