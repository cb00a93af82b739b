"""What is learned: a problem, its tasks, and what its losses offer to a solver."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp

from ._expected import check_arity
from ._must import Count
from ._synapse import Synapse
from ._types import Key, PyTree, Scalar

# `(phi, theta, z) -> scalar`; with a model state `(phi, theta, z, state) -> (scalar, state)`.
LossFunction: TypeAlias = Callable[..., PyTree]


class Data(NamedTuple):
    """Examples `x` (n, ...) with their targets `y` (n, ...)."""

    x: PyTree
    y: PyTree


class Task(NamedTuple):
    """What to learn from (`train`, the support set) and how it is judged (`test`, the query set).

    A convenience: any pytree can be a task. `check` looks inside this one, because the two halves
    of a task that is spelled out can be compared.
    """

    train: Data
    test: Data


@dataclass(frozen=True)
class Problem:
    """What is learned: fast parameters `phi` given slow meta-parameters `theta` and a task `z`.

    The free phase minimises `inner` over phi; `outer` judges what was learned and is what the
    meta-gradient improves:

        phi_0 = argmin_phi L_in(phi, theta, z),   meta-loss = L_out(phi_0, theta, z).

    `z` is whatever a task hands to its losses, any pytree: data, keys, or features that a slow body
    has made of data, since a `meta_loss` has a gradient by `z` too and composes with functions.

    Args:
        init: `(theta, z) -> phi`, where learning starts. All leaves floating.
        inner: `(phi, theta, z) -> scalar`, the loss the learner minimises.
        outer: `(phi, theta, z) -> scalar`, the loss on held-out data.
        sample: `(z, key) -> z`, one random view of `z`, for stochastic learners: a mini-batch, a
            dropout mask, fresh noise. Solvers see views; losses and contrasts are taken on `z`
            itself. Step `t` of *every* phase draws with the same key, because noise that differs
            between phases would be divided by beta. Default: no sampling.
        views: where `L_in` is defined by what is drawn (augmentation, noise of a learned strength),
            not by `z` itself: the inner loss of the whole task is then the mean over the views of
            the first so many steps, which all phases learned from. Default: `z` itself.
        state: `(theta, z) -> state`, what a model carries from step to step besides phi, such as
            batch norm's running statistics. Both losses are then called as `(phi, theta, z,
            state)`, and `inner` returns `(value, state)`. Each step of a phase hands its state to
            the next, the nudged phases begin with that of `phi_0`, and the outer loss is given the
            state of where it is taken. The rule holds it fixed, as it does phi.

    Example:
        >>> import jax.numpy as jnp, metacontrast as mc
        >>> problem = mc.Problem(
        ...     init=lambda theta, task: theta,
        ...     inner=lambda phi, theta, task: (phi - task) ** 2 + (phi - theta) ** 2,
        ...     outer=lambda phi, theta, task: (phi - 1.0) ** 2,
        ... )
        >>> loss = mc.Loss(problem, theta=jnp.array(0.0), z=jnp.array(2.0))
        >>> float(loss(jnp.array(1.0))), float(loss.outer(jnp.array(3.0)))
        (2.0, 4.0)
    """

    init: Callable[[PyTree, PyTree], PyTree]
    inner: LossFunction
    outer: LossFunction
    sample: Callable[[PyTree, Key], PyTree] | None = None
    views: Count | None = None
    state: Callable[[PyTree, PyTree], PyTree] | None = None

    def __post_init__(self) -> None:
        if self.views is not None and not self.sample:
            raise ValueError("views: are what `sample` draws; give sample too, or leave it out.")
        check_arity("inner", self.inner, self.arguments)
        check_arity("outer", self.outer, self.arguments)

    @property
    def arguments(self) -> tuple[str, ...]:
        """What the losses are called with."""
        return ("phi", "theta", "z") if self.state is None else ("phi", "theta", "z", "state")


class Squares(NamedTuple):
    """`weight * sum_i residual(phi, examples_i)^2`; the leaves of `examples` have one row each."""

    weight: Scalar | complex
    residual: Callable[[PyTree, PyTree], jax.Array]
    examples: PyTree


class Split(NamedTuple):
    """A loss around a phi, as squares and a rest: what a least-squares solver works with.

    The rest bends each weight by itself: `<slope, d> + sum_i stiffness_i d_i^2` and a constant, at
    `phi + d`. Both are trees of phi's structure, or None for 0.
    """

    squares: tuple[Squares, ...] = ()
    slope: PyTree = None
    stiffness: PyTree = None

    def plus(self, other: Split, weight: Scalar | complex = 1.0) -> Split:
        """The split of this loss plus `weight` times the other."""
        squares = tuple(s._replace(weight=weight * s.weight) for s in other.squares)
        rest = [_sum(a, b, weight) for a, b in zip(self[1:], other[1:], strict=True)]
        return Split(self.squares + squares, *rest)


def _sum(a: PyTree, b: PyTree, weight: Scalar | complex) -> PyTree:
    weighted = jax.tree.map(lambda leaf: weight * leaf, b)
    return weighted if a is None else a if b is None else jax.tree.map(jnp.add, a, weighted)


@runtime_checkable
class InverseCurvature(Protocol):
    """`(d2L/dphi2 + damping)^-1`, factorised: a pytree of arrays, for a solver to carry along."""

    def apply(self, g: PyTree) -> PyTree:
        """The product with `g`, of phi's structure."""


class Objective(ABC):
    """A loss `(phi, theta, z) -> scalar`; what a solver may know of it besides is a method.

    Most losses are plain functions, which `Problem` takes as they are. A loss that offers more is
    a subclass, as `LeastSquares` is.
    """

    @abstractmethod
    def __call__(self, phi: PyTree, theta: PyTree, z: PyTree) -> Scalar:
        """The scalar loss."""

    def split(self, phi: PyTree, theta: PyTree, z: PyTree) -> Split | None:
        """The loss as squares and a rest, for `gauss_newton`; None if it is not of that form."""
        return None

    def inverse_curvature(
        self, theta: PyTree, z: PyTree, damping: float = 0.0
    ) -> InverseCurvature | None:
        """Of a loss whose curvature is known and the same at every phi; else None."""
        return None


@dataclass(frozen=True)
class Plain(Objective):
    """A function of which nothing but its value is known."""

    value: LossFunction

    def __call__(self, phi: PyTree, theta: PyTree, z: PyTree) -> Scalar:
        """The scalar loss."""
        return self.value(phi, theta, z)


@dataclass(frozen=True)
class LeastSquares(Objective):
    """A loss that is a sum of squares, and says so, for `Problem(inner=..., outer=...)`.

        L(phi, theta, z) = sum_i residual(phi, theta, example_i)^2 + prior(theta).pull(phi)

    To every solver it is a loss like any other; `gauss_newton` also uses its parts.

    Args:
        residual: `(phi, theta, example) -> array` of any shape, for one example.
        data: `z -> examples`, a pytree whose leaves have one row an example.
        prior: `theta -> Synapse`, which pulls phi. Default: none.

    Example:
        >>> loss = LeastSquares(lambda phi, theta, x: phi - x, data=lambda z: z)
        >>> float(loss(jnp.array(1.0), None, jnp.array([0.0, 3.0])))
        5.0
    """

    residual: Callable[[PyTree, PyTree, PyTree], jax.Array]
    data: Callable[[PyTree], PyTree]
    prior: Callable[[PyTree], Synapse] | None = None

    def __call__(self, phi: PyTree, theta: PyTree, z: PyTree) -> Scalar:
        """The scalar loss."""
        residuals = jax.vmap(lambda example: self.residual(phi, theta, example))(self.data(z))
        squares = jnp.sum(residuals**2)
        return squares if self.prior is None else squares + self.prior(theta).pull(phi)

    def split(self, phi: PyTree, theta: PyTree, z: PyTree) -> Split:
        """The squares of the data, and the pull of the prior."""
        squares = Squares(1.0, lambda phi, row: self.residual(phi, theta, row), self.data(z))
        if self.prior is None:
            return Split((squares,))
        synapse = self.prior(theta)
        lam, omega = synapse.strengths(phi), synapse.resting_point(phi)
        slope = jax.tree.map(lambda s, p, o: 2 * s * (p - o), lam, phi, omega)
        return Split((squares,), slope, lam)


def objective(loss: LossFunction) -> Objective:
    """The loss itself if it offers its structure, else one that offers nothing but its value."""
    return loss if isinstance(loss, Objective) else Plain(loss)
