"""A memory of the current task that is replayed one item at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from .._must import Count, NotNegative
from .._problem import Task
from .._types import Key, PyTree, Scalar, Step

NudgeMode: TypeAlias = Literal["gain", "mix"]
Replays: TypeAlias = list[tuple[PyTree, Scalar | complex]]  # of items, each with its gain


class Memory(NamedTuple):
    """The items of a task that are stored, and how many it had: of `train`, and of `test`."""

    items: Task
    counts: tuple[int, int]


@dataclass(frozen=True)
class Hippocampus:
    """Stores items of a task and replays them in turn; in the nudged phase test items too.

    A replayed item comes with a gain, such that one round of replays amounts to the sums over all
    items, however few are stored:

        free phase            train item                           gain n
        nudged, by "gain"     train item, then test item           gains n and beta m
        nudged, by "mix"      train or test item, in ratio         gain n + beta m, for either
                              n : beta m of their replays

    with n train and m test items in the task. The order is fixed, so that what a learner of one
    item at a time owes to the order cancels between the phases. Ours: the slide on complementary
    learning systems in Sacramento's talk names storing, replaying and signing, not an algorithm.

    Args:
        capacity: items stored of each half of a task, the first ones. Default: all.
        noise: standard deviation of normal noise on what is stored, x and y, in their units; drawn
            once for each item, which then stays as it is.
        nudge: "gain" or "mix".

    Raises:
        ValueError: a bad argument.

    Example:
        >>> data = lambda *x: (jnp.array(x), jnp.array(x))
        >>> memory = Hippocampus(capacity=2).store(Task(data(1.0, 2.0, 3.0), data(4.0)))
        >>> [(float(item[0]), gain) for item, gain in Hippocampus().replay(memory, 3, beta=0.1)]
        [(2.0, 3), (4.0, 0.1)]
    """

    capacity: Count | None = None
    noise: NotNegative = 0.0
    nudge: NudgeMode = "gain"

    def store(self, task: Task, key: Key | None = None) -> Memory:
        """Store what there is room for, as well as it is stored.

        Raises:
            ValueError: noise without a key.
        """
        return self.memory(task, self.draw_noise(task, key))

    def draw_noise(self, task: Task, key: Key | None) -> Task | None:
        """What comes to the items when they are stored; None without noise."""
        if not self.noise:
            return None
        if key is None:
            raise ValueError("key: a noisy memory draws its noise; pass a key after the task.")
        leaves, structure = jax.tree.flatten(self._first(task))
        keys = jax.random.split(key, len(leaves))
        draw = lambda k, leaf: self.noise * jax.random.normal(k, leaf.shape, leaf.dtype)
        return jax.tree.unflatten(structure, map(draw, keys, leaves))

    def memory(self, task: Task, noise: Task | None) -> Memory:
        """The stored items, with this noise on them."""
        train, test = (len(jax.tree.leaves(half)[0]) for half in task)
        items = self._first(task)
        items = items if noise is None else jax.tree.map(jnp.add, items, noise)
        return Memory(items, (train, test))

    def _first(self, task: Task) -> Task:
        return jax.tree.map(lambda leaf: leaf[: self.capacity], task)

    def replay(self, memory: Memory, t: Step, beta: Scalar | complex | None = None) -> Replays:
        """The items replayed at step `t` of a phase, which is a nudged one if it has a `beta`."""
        (train, test), (n, m) = memory
        if beta is None:
            return [(_item(train, t), n)]
        if self.nudge == "gain":
            return [(_item(train, t), n), (_item(test, t), beta * m)]
        # Of t replays, this many were of test items; one more now if the number grows.
        ratio = beta * m / (n + beta * m)
        before, now = jnp.floor(t * ratio), jnp.floor((t + 1) * ratio)
        before = before.astype(jnp.int32)
        item = jax.tree.map(
            lambda a, b: jnp.where(now > before, b, a),
            _item(train, t - before),
            _item(test, before),
        )
        return [(item, n + beta * m)]


def _item(half: PyTree, t: Step) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[t % len(leaf)], half)
