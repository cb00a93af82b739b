"""A model of one's own, its losses and its data, as a problem."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from .._check import shapes
from .._problem import Problem
from .._types import Key, PyTree, Scalar


class Draw(NamedTuple):
    """The rows of the training data that a step sees, and what it draws noise from."""

    rows: Int[Array, " n"]
    key: Key


@dataclass(frozen=True)
class UserLoss:
    """`(params, theta, batch[, state][, key=key])`, the loss of a user.

    Args:
        name: of the argument that it is.
        function: the loss.
        has_state: whether it is given a state.
    """

    name: str
    function: Callable[..., Any]
    has_state: bool
    takes_key: bool = field(init=False)

    def __post_init__(self) -> None:
        try:
            takes = "key" in inspect.signature(self.function).parameters
        except ValueError:
            takes = False
        object.__setattr__(self, "takes_key", takes)

    def __call__(
        self, params: PyTree, theta: PyTree, batch: PyTree, state: PyTree, key: Key
    ) -> PyTree:
        """What it returns.

        Containers that are written to, as flax's variables are, are new ones at each call.
        """
        params, state = jax.tree.map(lambda x: x, (params, state))
        given = (params, theta, batch, state) if self.has_state else (params, theta, batch)
        return self.function(*given, **({"key": key} if self.takes_key else {}))

    def check(self, params: PyTree, theta: PyTree, data: str, batch: PyTree, state: PyTree) -> None:
        """Raise, with the names of the arguments, where it cannot be called or is no scalar."""
        arrays, rest = eqx.partition((params, theta, batch, state), eqx.is_array)

        def call(arrays: PyTree, key: Key) -> PyTree:
            params, theta, batch, state = eqx.combine(arrays, rest)
            return self(params, theta, batch, state, key)

        try:
            value = jax.eval_shape(call, arrays, jax.random.key(0))
        except jax.errors.JAXTypeError:
            raise
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            names = "params, theta, batch" + ", state" * self.has_state
            line = next(iter(str(error).splitlines()), "")
            raise TypeError(
                f"{self.name}: is called with ({names}), and with key=... if it has that argument; "
                f"it does not take `theta` {shapes(theta)} and a batch of `{data}` {shapes(batch)} "
                f"({type(error).__name__}: {line})."
            ) from error
        is_pair = self.has_state and isinstance(value, tuple) and len(value) == 2
        value = value[0] if is_pair else value
        if getattr(value, "shape", None) != () or not jnp.issubdtype(value.dtype, jnp.floating):
            more = ", state)" if self.has_state and self.name == "train_loss" else ""
            raise ValueError(
                f"{self.name}: must return {'(' if more else ''}one floating number{more}, not "
                f"{shapes(value)}; take the mean over the batch."
            )


@dataclass(frozen=True, eq=False)
class Task:
    """What is learned from, and by what theta is judged.

    Args:
        train_loss: the inner loss.
        valid_loss: the outer loss; and, on other data, that by which the search is stopped.
        params: where learning starts.
        state: that of the model there, or None.
        train: data to learn from.
        valid: data by which the meta-gradient is taken.
        stop: data by which theta is chosen.
        batch_size: rows of a step; None for all of them.
    """

    train_loss: UserLoss
    valid_loss: UserLoss
    params: PyTree
    state: PyTree
    train: PyTree
    valid: PyTree
    stop: PyTree
    batch_size: int | None

    def check(self, theta: PyTree) -> None:
        """Raise where a loss does not take what it is given."""
        batch = jax.tree.map(lambda x: x[: self.batch_size], self.train)
        self.train_loss.check(self.params, theta, "train", batch, self.state)
        for name, data in (("valid", self.valid), ("stop", self.stop)):
            self.valid_loss.check(self.params, theta, name, data, self.state)

    @property
    def rows(self) -> int:
        """Of the training data."""
        return int(jax.tree.leaves(self.train)[0].shape[0])

    def whole(self, phi: PyTree) -> PyTree:
        """The model of these weights."""
        return eqx.combine(phi, eqx.filter(self.params, eqx.is_inexact_array, inverse=True))

    def draw(self, key: Key) -> Draw:
        """The task of the problem: all rows, and the key of this meta-step."""
        return Draw(jnp.arange(self.rows), key)

    def problem(self) -> Problem:
        """In the words of the core."""
        samples = self.batch_size is not None or self.train_loss.takes_key
        phi_0 = eqx.filter(self.params, eqx.is_inexact_array)
        has_state = self.state is not None
        return Problem(
            init=lambda theta, z: phi_0,
            inner=_arguments(self._inner, has_state),
            outer=_arguments(self._outer, has_state),
            sample=self._sample if samples else None,
            state=(lambda theta, z: self.state) if has_state else None,
        )

    def stop_loss(self, phi: PyTree, theta: PyTree, z: Draw, state: PyTree = None) -> Scalar:
        """The outer loss on the data that theta is chosen by."""
        return _value(self.valid_loss(self.whole(phi), theta, self.stop, state, z.key))

    def _inner(self, phi: PyTree, theta: PyTree, z: Draw, state: PyTree = None) -> PyTree:
        batch = jax.tree.map(lambda x: x[z.rows], self.train)
        return self.train_loss(self.whole(phi), theta, batch, state, z.key)

    def _outer(self, phi: PyTree, theta: PyTree, z: Draw, state: PyTree = None) -> Scalar:
        return _value(self.valid_loss(self.whole(phi), theta, self.valid, state, z.key))

    def _sample(self, z: Draw, key: Key) -> Draw:
        choosing, noise = jax.random.split(key)
        if self.batch_size is None:
            return Draw(z.rows, noise)
        rows = jax.random.choice(choosing, z.rows, (self.batch_size,), replace=False)
        return Draw(rows, noise)


def _value(result: PyTree) -> Scalar:
    """Of a loss that may return the state too."""
    return result[0] if isinstance(result, tuple) else result


def _arguments(function: Callable[..., Any], has_state: bool) -> Callable[..., Any]:
    """The same with a state, or without."""
    if has_state:
        return function
    return lambda phi, theta, z: function(phi, theta, z)
