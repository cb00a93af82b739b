"""Held-out data: those of validation choose, and tests judge what was chosen, afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import jax
from jaxtyping import PyTree

T = TypeVar("T")
C = TypeVar("C")

# Task streams: training draws from the run's seed, these two from seeds that no run may have.
SEEDS = {"valid": 2**31 - 2, "test": 2**31 - 1}


def held_out(part: str) -> jax.Array:
    """The key from which held-out tasks of a part are drawn."""
    return jax.random.key(SEEDS[part])


def stack_tasks(sample_task: Callable[[jax.Array], PyTree], part: str, n: int) -> PyTree:
    """`n` held-out tasks, stacked, always the same."""
    return jax.jit(jax.vmap(sample_task))(jax.random.split(held_out(part), n))


class Tests(Generic[T]):
    """Test data, which cannot be read before what they are to judge is chosen.

    An experiment gives a reader of its parts and does not ask it for "test" itself. So nothing that
    trains or validates can have seen test data, as long as `chosen` is called last.
    """

    def __init__(self, read: Callable[[str], T]) -> None:
        self._read, self._is_chosen = read, False

    def chosen(self, choice: C) -> C:
        """The choice itself, after which test data can be read.

        Raises:
            RuntimeError: there was one, and another could depend on what tests said of it.
        """
        if self._is_chosen:
            raise RuntimeError("tests: the choice is made once; make it by validation data alone.")
        self._is_chosen = True
        return choice

    def open(self) -> T:
        """The test data.

        Raises:
            RuntimeError: nothing has been chosen yet.
        """
        if not self._is_chosen:
            raise RuntimeError(
                "tests: read before anything is chosen; choose by validation data, then call "
                "chosen(...)."
            )
        return self._read("test")
