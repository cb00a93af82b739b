"""A memory of the current task that is replayed one item at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .._problem import PyTree, Task, is_free
from .._solve import positive

NUDGES = ("gain", "mix")


class Memory(NamedTuple):
    """What is held of a task, and how many items it had: of `train`, and of `test`."""

    held: Task
    seen: tuple[int, int]


@dataclass(frozen=True)
class Hippocampus:
    """Holds items of a task and replays them, in turn; in the nudged phase test items too.

    A replayed item comes with a gain, such that one round of replays amounts to the sums over all
    items, however few are held:

        free phase            train item                           gain n
        nudged, by "gain"     train item, then test item           gains n and beta m
        nudged, by "mix"      train or test item, in ratio         gain n + beta m, for either
                              n : beta m of their replays

    with n train and m test items in the task. The order is fixed, so that what a learner of one
    item at a time owes to the order cancels between the phases. Ours: the talk's slide on
    complementary learning systems names holding, replaying and signing, not an algorithm.

    Args:
        capacity: items held of each half of a task, the first ones. Default: all.
        noise: standard deviation of normal noise on what is stored, x and y, in their units; drawn
            once for each item, which then stays as it is.
        nudge: "gain" or "mix".

    Example:
        >>> data = lambda *x: (jnp.array(x), jnp.array(x))
        >>> memory = Hippocampus(capacity=2).store(Task(data(1.0, 2.0, 3.0), data(4.0)))
        >>> [(float(item[0]), gain) for item, gain in Hippocampus().replay(memory, 3, beta=0.1)]
        [(2.0, 3), (4.0, 0.1)]
    """

    capacity: int | None = None
    noise: float = 0.0
    nudge: str = "gain"

    def __post_init__(self) -> None:
        if self.capacity is not None:
            positive("capacity", self.capacity)
        if not self.noise >= 0:
            raise ValueError(f"noise: must be at least 0, not {self.noise}.")
        if self.nudge not in NUDGES:
            raise ValueError(f"nudge: unknown {self.nudge!r}; choose one of {', '.join(NUDGES)}.")

    def store(self, task: Task, key: jax.Array | None = None) -> Memory:
        """Hold what there is room for, as well as it is held.

        Raises:
            ValueError: noise without a key.
        """
        train, test = (len(jax.tree.leaves(half)[0]) for half in task)
        held = jax.tree.map(lambda leaf: leaf[: self.capacity], task)
        if self.noise:
            if key is None:
                raise ValueError("key: a noisy memory draws its noise; pass a key after the task.")
            leaves, structure = jax.tree.flatten(held)
            keys = jax.random.split(key, len(leaves))
            draw = lambda k, leaf: leaf + self.noise * jax.random.normal(k, leaf.shape, leaf.dtype)
            held = jax.tree.unflatten(structure, map(draw, keys, leaves))
        return Memory(held, (train, test))

    def replay(self, memory: Memory, t: Any, beta: Any = 0.0) -> list[tuple[PyTree, Any]]:
        """The items replayed at step `t` of a phase, each with its gain."""
        (train, test), (n, m) = memory
        if is_free(beta):
            return [(_item(train, t), n)]
        if self.nudge == "gain":
            return [(_item(train, t), n), (_item(test, t), beta * m)]
        # Of t replays, this many were of test items; one more now if the number grows.
        ratio = beta * m / (n + beta * m)
        before, now = jnp.floor(t * ratio), jnp.floor((t + 1) * ratio)
        before = before.astype(jnp.int32)
        chosen = jax.tree.map(
            lambda a, b: jnp.where(now > before, b, a),
            _item(train, t - before),
            _item(test, before),
        )
        return [(chosen, n + beta * m)]


def _item(half: PyTree, t: Any) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[t % len(leaf)], half)
