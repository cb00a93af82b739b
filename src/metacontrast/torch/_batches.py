"""Mini-batches of a DataLoader: drawn once for a task, and the same ones in each of its phases."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import torch

from .._must import advice
from .._types import PyTree
from ._state import RandomState, random_state, set_random_state


class Batches:
    """The batches of a `DataLoader`, recorded once for a task and replayed in each of its phases.

    Two phases that learn from different mini-batches differ by more than the nudge, and the
    difference is divided by beta. So step t of every phase is to see the same batch:

        inner=lambda net, batches: loss(net, *next(batches)) + net.pull()

    `next(batches)` is the next batch, of the next epoch where one has ended; `for x, y in batches`
    goes once through all of them. It may be a task, a part of one (`Task(Batches(...),
    Batches(...))`) or closed over by the losses. In each phase it starts at the first batch again;
    each task and each call draws batches afresh, from an epoch of their own: use `shuffle=True`.

    The losses and the contrast are taken, as all that is random, with what the first step of a
    phase sees: `L_in` on its first batch. The outer loss sees one and the same batch all the time,
    if it takes one by `next`.

    Memory: the batches of one task, as many as its longest phase has steps, stay on the host where
    the loader made them, until the task has been learned. A loss gets copies, which it may change.
    Loaders draw from a branch of the random numbers, and so change none that the losses draw.
    With `num_workers`, say `persistent_workers=True`: they start anew with each epoch otherwise.
    Outside a call it hands on what the loader gives.

    Args:
        loader: a `DataLoader`, or anything that can be gone through again and again.

    Raises:
        TypeError: an iterator, which can be gone through but once.
        ValueError: when used, a loader without batches.

    Example: the mean of ten numbers, by mini-batches of five, pulled to a slow number.
        >>> from functools import partial
        >>> import metacontrast as mc, metacontrast.torch as mct
        >>> numbers = torch.utils.data.TensorDataset(torch.arange(10.0))
        >>> loader = torch.utils.data.DataLoader(
        ...     numbers, batch_size=5, shuffle=True, generator=torch.Generator().manual_seed(0)
        ... )
        >>> net = torch.nn.ParameterDict({"fast": torch.zeros(()), "slow": torch.zeros(())})
        >>> problem = mct.Problem(
        ...     net,
        ...     inner=lambda net, batches: (
        ...         ((net["fast"] - next(batches)[0]) ** 2).mean()
        ...         + (net["fast"] - net["slow"]) ** 2
        ...     ),
        ...     outer=lambda net, batches: (net["fast"] - 1.0) ** 2,
        ...     meta=["slow"],
        ... )
        >>> solver = mct.descend(partial(torch.optim.SGD, lr=0.02), steps=150)
        >>> rule = mc.Contrastive(0.01, scheme="symmetric")
        >>> step = mct.backward(problem, solver, rule, Batches(loader))
        >>> half = 2 * step.value**0.5 * 0.5  # 2 (phi - 1) times d phi / d slow
        >>> round(float(net["slow"].grad / half), 1)
        1.0
    """

    def __init__(
        self, loader: Annotated[Iterable[PyTree], advice("wrap a Dataset in a DataLoader")]
    ) -> None:
        if not hasattr(loader, "__iter__") or isinstance(loader, (Iterator, Batches)):
            raise TypeError(
                f"loader: must be something to go through again and again, such as a DataLoader, "
                f"not {type(loader).__name__}; give the DataLoader itself, not iter(...) of it."
            )
        self.loader = loader
        self._outside: Iterator[PyTree] | None = None

    def __len__(self) -> int:
        return len(self.loader)  # type: ignore[arg-type]  # where the loader knows

    def __next__(self) -> PyTree:
        """The next batch of this phase."""
        if not _RECORDINGS:
            return self._next_outside()
        return _RECORDINGS[-1].tape(self).next()

    def __iter__(self) -> Iterator[PyTree]:
        """All batches, once."""
        return _RECORDINGS[-1].tape(self).epoch() if _RECORDINGS else iter(self.loader)

    def _next_outside(self) -> PyTree:
        for _ in range(2):
            if self._outside is None:
                self._outside = iter(self.loader)
            for batch in self._outside:
                return batch
            self._outside = None
        raise _empty()


def _empty() -> ValueError:
    return ValueError("loader: has no batches; look at its dataset, or leave out drop_last=True.")


@dataclass
class Tape:
    """What a task has seen of a loader."""

    loader: Iterable[PyTree]
    draws: RandomState  # where the loader's own random numbers go on
    batches: list[PyTree] = field(default_factory=list)
    length: int | None = None  # of the first epoch, once it has ended
    position: int = 0
    source: Iterator[PyTree] | None = None

    def next(self) -> PyTree:
        """The batch at the position, which moves on."""
        if self.position == len(self.batches) and not self._record() and not self._record():
            raise _empty()
        self.position += 1
        return copy.deepcopy(self.batches[self.position - 1])

    def epoch(self) -> Iterator[PyTree]:
        """The batches of the first epoch."""
        i = 0
        while i != self.length and (i < len(self.batches) or self._record()):
            yield copy.deepcopy(self.batches[i])
            i += 1

    def _record(self) -> bool:
        """One batch more; False at the end of an epoch, after which the next one begins."""
        before = random_state()
        set_random_state(self.draws)
        try:
            if self.source is None:
                self.source = iter(self.loader)
            for batch in self.source:
                self.batches.append(batch)
                return True
            self.length = len(self.batches) if self.length is None else self.length
            self.source = None
            return False
        finally:
            self.draws = random_state()
            set_random_state(before)


class Recording:
    """The tapes of one task."""

    def __init__(self) -> None:
        self.random: RandomState = {}
        self._tapes: dict[int, tuple[Batches, Tape]] = {}

    @property
    def used(self) -> bool:
        """Whether a loss has asked for batches."""
        return bool(self._tapes)

    def tape(self, batches: Batches) -> Tape:
        """That of a loader; the first look at it draws its seed."""
        if id(batches) not in self._tapes:
            draws = _branch(self.random, len(self._tapes))
            self._tapes[id(batches)] = batches, Tape(batches.loader, draws)
        return self._tapes[id(batches)][1]

    def positions(self) -> dict[int, int]:
        """Where each tape is."""
        return {key: tape.position for key, (_, tape) in self._tapes.items()}

    def rewind(self, positions: dict[int, int] | None = None) -> None:
        """Back to where each tape was, or to its beginning."""
        for key, (_, tape) in self._tapes.items():
            tape.position = (positions or {}).get(key, 0)


_RECORDINGS: list[Recording] = []  # of the tasks that are being learned, the innermost last


@contextmanager
def recording() -> Iterator[Recording]:
    """Within the block, all `Batches` are recorded."""
    _RECORDINGS.append(Recording())
    try:
        yield _RECORDINGS[-1]
    finally:
        _RECORDINGS.pop()


def _branch(state: RandomState, number: int) -> RandomState:
    """Generators that are seeded by the next number that follows `state`."""
    before = random_state()
    set_random_state(state)
    seed = int(torch.randint(2**62, ())) + number
    torch.default_generator.manual_seed(seed)  # that of the CPU alone
    np.random.seed(seed % 2**32)
    random.seed(seed)
    branch = random_state()
    set_random_state(before)
    return branch
