"""Learning that diverged: how it is noticed, and how a run ends that cannot go on."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from .._tree import is_finite
from .._types import PyTree, Scalar

# Why a meta-step cannot be followed by another.
NONE, TASKS, THETA, MOMENTS = range(4)
# A loss that is such a part of what it is at 0 is that of a solved task.
SOLVED = 1e-3
# How far every number of phi is moved to see how steep a loss is that its start has solved.
NEAR = 1e-3
# A gradient so many times larger than usual freezes an optimiser that scales by its square.
RUNAWAY = 1e9


class DivergedError(ArithmeticError):
    """Meta-training cannot go on: all tasks of a meta-step diverged, or its update of theta did."""


def is_far_above(
    first: Array | float, last: Array | float, scale: Array | float = 1e-6
) -> Bool[Array, ""]:
    """Whether a loss ended far above where it started: divergence that is still finite.

    Args:
        first: the loss at the start.
        last: at the end; NaN is far above.
        scale: what a change of the loss is judged against where `first` is smaller; see
            `start_and_scale`.
    """
    last = jnp.asarray(last)
    return ~(last <= first + 10 * jnp.maximum(jnp.abs(jnp.asarray(first)), scale))


def start_and_scale(
    loss: Callable[[PyTree], Scalar],
    init: Callable[[], PyTree],
    place: Callable[[PyTree], PyTree] = lambda phi: phi,
) -> tuple[Array, Array]:
    """The loss where learning starts, and the least that a change of it is judged against.

    A task that its start has solved must not be judged by a first loss of nearly 0, but by what
    the loss is without learning anything, at 0: a thousandth of that. Where 0 solves it too, it is
    what the loss is near by. All of it is in the loss's own units, whatever they are; but a
    constant that is added to a loss is a part of its size, and hides what is smaller.

    Args:
        loss: of phi.
        init: gives where learning starts.
        place: phi on the devices.
    """

    def at(weights: tuple[Array, Array]) -> Array:
        scaled, moved = weights
        move = lambda x: (x * scaled + moved).astype(x.dtype) if _is_floating(x) else x
        return jnp.real(loss(place(jax.tree.map(move, init()))))

    # In a loop, so that it is compiled once, and that one phi is alive at a time.
    first, at_0, near = jax.lax.map(at, (jnp.array([1.0, 0.0, 1.0]), jnp.array([0.0, 0.0, NEAR])))
    sizes = jnp.abs(jnp.stack([SOLVED * at_0, near - first]))
    return first, jnp.max(jnp.where(jnp.isfinite(sizes), sizes, 0))


def largest(tree: PyTree) -> Float[Array, ""]:
    """The largest absolute value in the tree, in float32: 0 of none."""
    sizes = [jnp.max(jnp.abs(leaf), initial=0).astype(jnp.float32) for leaf in _floating(tree)]
    return jnp.max(jnp.stack([jnp.zeros((), jnp.float32), *sizes]))


def is_runaway(gradient: PyTree, usual: Float[Array, ""] | float) -> Bool[Array, ""]:
    """Whether a gradient is astronomically larger than `usual`, the largest of earlier means.

    Where there is none yet (0), none is.
    """
    return (largest(gradient) > RUNAWAY * usual) & jnp.asarray(usual > 0)


def trouble(learned: Array, theta: PyTree, before: PyTree, moments: PyTree) -> Array:
    """Of a meta-step in which `learned` tasks did not diverge, and which led to theta.

    Args:
        learned: how many tasks.
        theta: after the update.
        before: the optimiser's state before it.
        moments: the optimiser's state after it.
    """
    lost = jnp.where(_lost(theta, before, moments), MOMENTS, NONE)
    return jnp.where(learned == 0, TASKS, jnp.where(is_finite(theta), lost, THETA))


def _lost(theta: PyTree, before: PyTree, moments: PyTree) -> Bool[Array, ""]:
    """Whether a moment of theta was finite and is so no more.

    Others may be infinite, as the loss that a line search has not seen yet.
    """
    shapes = {jnp.shape(leaf) for leaf in jax.tree.leaves(theta)}
    pairs = zip(_floating(before), _floating(moments), strict=True)
    lost = [jnp.any(jnp.isfinite(a) & ~jnp.isfinite(b)) for a, b in pairs if jnp.shape(a) in shapes]
    return jnp.any(jnp.stack(lost)) if lost else jnp.zeros((), bool)


def _floating(tree: PyTree) -> list[Array]:
    """Its leaves of floating numbers, complex ones too."""
    return [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree) if _is_floating(leaf)]


def _is_floating(leaf: PyTree) -> bool:
    return bool(jnp.issubdtype(jnp.result_type(leaf), jnp.inexact))


def before_trouble(troubles: np.ndarray) -> int:
    """How many meta-steps came before the first that was in trouble."""
    return int(np.argmax(troubles != NONE)) if (troubles != NONE).any() else len(troubles)


def check_trouble(troubles: np.ndarray, t: int) -> None:
    """Raise a `DivergedError` for the first of the meta-steps after `t` that was in trouble."""
    i = before_trouble(troubles)
    if i == len(troubles):
        return
    raise DivergedError(f"meta-step {t + i + 1}: {_WHY[int(troubles[i])]}")


_CALMER = (
    "Lower the learning rate of `optimizer`, or clip in it "
    "(optax.chain(optax.clip_by_global_norm(1.0), ...))."
)
_WHY = {
    TASKS: "every task diverged. Lower the inner learning rate, take "
    "fewer inner steps, or clip the inner gradient (optax.clip_by_global_norm). Or lower "
    "|beta|: a negative nudge, which scheme='symmetric' has, minimises L_in - |beta| L_out "
    "and can make it unbounded below. With Implicit('cg'), add damping: it gives NaN where "
    "the Hessian has negative curvature.",
    THETA: f"theta is not finite after the update. {_CALMER}",
    MOMENTS: "the state of `optimizer` is not finite after the update, though theta is: it would "
    f"stand still from now on. {_CALMER}",
}
