"""How complementary systems learn a task, and what may be spoiled of them.

Shared by the two experiments on sines and on characters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeVar

import frame
import jax
import optax
from jaxtyping import PyTree

import metacontrast as mc
from metacontrast.brain import Hippocampus, Plasticity, Tagged

# What is spoiled, and how badly; the methods are named after them.
PANELS: Mapping[str, tuple[float, ...]] = {
    "capacity": (2, 3, 5, 8),
    "memory_noise": (0.1, 0.3, 1.0),
    "decay": (1e-4, 1e-3, 1e-2),
    "tag_noise": (0.01, 0.1, 1.0),
    "jitter": (1, 10, 40),
    "at_once": (1e-5, 1e-4, 1e-3),
}


@dataclass(frozen=True, kw_only=True)
class Settings(frame.Settings):
    """What a run depends on."""

    tasks: int = 25  # Tasks a meta-step.
    outer_rate: float  # Of theta.
    first_lambda: float  # Of every synapse; it is learned.
    rate: float  # Of learning a task; it falls on a cosine.
    beta: float = 0.3  # The strength of the nudge.
    free: int = 100  # Replays of the free phase.
    nudged: int = 50  # Replays of the nudged phase.
    nudge: Literal["gain", "mix"] = "gain"  # Test items are replayed weakly, or now and then.
    capacity: int | None = None  # Items that the hippocampus holds. Default: all.
    memory_noise: float = 0.0  # Of stored items.
    decay: float = 0.0  # The fraction of a tag that is lost in a step.
    tag_noise: float = 0.0  # Relative, of what is tagged.
    jitter: int = 0  # Steps that a signal is early or late, at most.
    at_once: float = 0.0  # The rate of consolidating before the nudged phase.
    test_tasks: int = 1000  # On which theta is judged, once.
    valid_tasks: int = 200  # Which say on the way how theta does.

    @property
    def forgets(self) -> bool:
        """Whether the memory is spoiled."""
        return self.capacity is not None or self.memory_noise > 0


S = TypeVar("S", bound=Settings)


def methods(perfect: S) -> dict[str, S]:
    """The settings of each method: the process, the ordinary rule, and what spoils one thing."""
    changes: dict[str, dict[str, Any]] = {"batch": {}, "full-batch": {}, "online": {}}
    changes["mix"] = {"nudge": "mix"}
    for field, levels in PANELS.items():
        changes |= {f"{field.replace('_', '-')}-{level:g}": {field: level} for level in levels}
    return {name: replace(perfect, method=name, **spoiled) for name, spoiled in changes.items()}


def learner(
    s: Settings, loss: Callable[[PyTree, mc.Data], jax.Array]
) -> tuple[mc.Solver, mc.Estimator]:
    """How tasks are learned, given the loss of an item, and the meta-gradient's estimator."""
    memory = Hippocampus(s.capacity, s.memory_noise, s.nudge)
    # One item at a time, at a rate that falls: what the last items did must not stand out.
    rate = partial(optax.cosine_decay_schedule, s.rate, alpha=0.05)
    if s.method == "full-batch":
        descent = [mc.descend(optax.sgd(rate(n)), n) for n in (s.free, s.nudged)]
        return descent[0], mc.Contrastive(s.beta, nudged=descent[1])
    free, nudged = (Plasticity(loss, rate(n), memory, steps=n) for n in (s.free, s.nudged))
    if s.method == "batch":
        return free, mc.Contrastive(s.beta, nudged=nudged)
    return free, Tagged(s.beta, nudged, s.decay, s.tag_noise, s.jitter, s.at_once)


def perfect_memory(s: S) -> S:
    """The same, but nothing is lost of a task."""
    return replace(s, capacity=None, memory_noise=0.0)


def local_optimizer(s: Settings) -> optax.GradientTransformation:
    """Each weight by itself: no norm over all of them, which no synapse knows."""
    schedule = optax.cosine_decay_schedule(s.outer_rate, s.steps, 0.02)
    return optax.chain(optax.clip(1.0), optax.adam(schedule))
