"""A loss that is differentiated twice by differences of its gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

from ._loss import Loss
from ._problem import InverseCurvature, Split
from ._secant import Numbers, Value, apart, secant, size_of
from ._tree import norm
from ._types import PyTree, Scalar

Product: TypeAlias = Literal["secant", "exact"]
Of: TypeAlias = Callable[[Numbers, PyTree], Scalar]  # of what moves, and of the rest
Probe: TypeAlias = Float[Array, " 3"]
SLOPE = "slope"  # the name under which jax.checkpoint can keep gradients


class Difference(NamedTuple):
    """How products with second derivatives are taken.

    `h` is how far a difference moves phi, in units of its size; a `checked` one is also taken over
    a half and a quarter of that. The `probe` has no value; what comes as its derivative is how much
    the product changes with each halving, and its size: of all products of a step, summed.
    """

    product: Product
    h: Scalar
    checked: Bool[Array, ""]
    probe: Probe


class MoreThanGradients(TypeError):
    """A solver asks more of its loss than values and gradients."""


class Parts(NamedTuple):
    """A loss as a function of its leaves: of those that can be differentiated, and the rest."""

    f: Of
    xs: Numbers
    rest: list[PyTree]
    of_phi: int  # how many of xs are phi's, which come first


@dataclass(frozen=True, eq=False)
class DifferencedLoss(Loss):
    """`L_in`, whose gradient can be differentiated backwards with no second derivative of it.

    In the place of `d' d2L/dx2`, with x all of (phi, theta, z, the model's state), stands

        [ dL/dx(x + e d) - dL/dx(x - e d) ] / 2e,    e |d| = h |phi|.
    """

    difference: Difference | None = None

    def __call__(self, phi: PyTree) -> Scalar:
        """The loss on all of `z`."""
        assert self.difference is not None
        product, *numbers = self.difference
        f, xs, rest, of_phi = self.parts(phi)
        return _value(f, product, of_phi, xs, rest, *numbers)

    def parts(self, phi: PyTree) -> Parts:
        """The plain loss at phi, apart."""
        known = phi, self.theta, self.z, self.key, self.state
        leaves, structure = jax.tree.flatten(known)
        ends = [len(jax.tree.leaves(part)) for part in known[:3]]
        fixed = range(sum(ends[:2]), sum(ends)) if not self.by_z else ()
        moving = [
            jnp.issubdtype(jnp.result_type(x), jnp.inexact) and i not in fixed
            for i, x in enumerate(leaves)
        ]
        xs = [jnp.asarray(x) for x, moves in zip(leaves, moving, strict=True) if moves]
        rest = [x for x, moves in zip(leaves, moving, strict=True) if not moves]
        like = Loss(self.problem, None, None, by_z=self.by_z, is_view=self.is_view)
        return Parts(partial(_plain, like, structure, moving), xs, rest, ends[0])

    def split(self, phi: PyTree) -> Split | None:
        """Not to be had: its derivatives would be second ones of the loss."""
        raise MoreThanGradients

    def inverse_curvature(self) -> InverseCurvature | None:
        """Not to be had, as `split`."""
        raise MoreThanGradients


def differenced(loss: Loss, difference: Difference | None = None) -> DifferencedLoss:
    """The loss of a free phase, to be differentiated so."""
    known = {field.name: getattr(loss, field.name) for field in fields(Loss)}
    return DifferencedLoss(**known, difference=difference)


def _plain(
    like: Loss, structure: PyTree, moving: list[bool], xs: Numbers, rest: list[PyTree]
) -> Scalar:
    both = iter(xs), iter(rest)
    leaves = [next(both[0] if moves else both[1]) for moves in moving]
    phi, theta, z, key, state = jax.tree.unflatten(structure, leaves)
    return replace(like, theta=theta, z=z, key=key, state=state)(phi)


# Two functions, each with a derivative of its own: the value, whose derivative is the gradient, and
# the gradient, whose derivative is a difference. They close over no array: what is differentiated,
# or changes from step to step, is an argument.


def _value_of(f: Of, product: Product, of_phi: int, *at: PyTree) -> Scalar:
    return f(*at[:2])


def _value_forward(f: Of, product: Product, of_phi: int, *at: PyTree) -> tuple[Scalar, PyTree]:
    value, slope = _value_and_slope(f, product, of_phi, *at)
    return value, (slope, at[-1])


def _value_backward(
    f: Of, product: Product, of_phi: int, kept: tuple[Numbers, Probe], g: Scalar
) -> tuple[PyTree, ...]:
    slope, probe = kept
    return [g.astype(s.dtype) * s for s in slope], None, None, None, jnp.zeros_like(probe)


def _slope_of(f: Of, product: Product, of_phi: int, *at: PyTree) -> tuple[Scalar, Numbers]:
    return jax.value_and_grad(f)(*at[:2])


def _slope_forward(f: Of, product: Product, of_phi: int, *at: PyTree) -> tuple[PyTree, PyTree]:
    value, slope = checkpoint_name(jax.value_and_grad(f)(*at[:2]), SLOPE)
    return (value, slope), (slope, at)


def _slope_backward(
    f: Of,
    product: Product,
    of_phi: int,
    kept: tuple[Numbers, PyTree],
    cotangents: tuple[Scalar, Numbers],
) -> tuple[PyTree, ...]:
    slope, (xs, rest, h, checked, probe) = kept
    g, d = cotangents
    if product == "exact":
        by_xs = jax.jvp(lambda xs: jax.grad(f)(xs, rest), (xs,), (d,))[1]
        probed = jnp.zeros_like(probe)
    else:
        way, at = h * size_of(xs[:of_phi]), lambda xs: f(xs, rest)
        by_xs = secant(at, xs, d, way)
        probed = _checked(checked, at, xs, d, way, by_xs).astype(probe.dtype)
    total = [(g * s + p).astype(s.dtype) for s, p in zip(slope, by_xs, strict=True)]
    return total, None, None, None, probed


def _checked(
    checked: Bool[Array, ""], f: Value, xs: Numbers, d: Numbers, way: Scalar, whole: Numbers
) -> Probe:
    def check(_: None) -> Probe:
        half, quarter = (secant(f, xs, d, way / part) for part in (2, 4))
        return jnp.stack([apart(whole, half), apart(half, quarter), norm(whole)])

    nothing = jax.eval_shape(check, None)
    return jax.lax.cond(checked, check, lambda _: jnp.zeros(3, nothing.dtype), None)


_value = jax.custom_vjp(_value_of, nondiff_argnums=(0, 1, 2))
_value.defvjp(_value_forward, _value_backward)
_value_and_slope = jax.custom_vjp(_slope_of, nondiff_argnums=(0, 1, 2))
_value_and_slope.defvjp(_slope_forward, _slope_backward)
