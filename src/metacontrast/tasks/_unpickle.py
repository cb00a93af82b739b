"""Pickles that can hold nothing but numbers, strings, containers and arrays of bytes."""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import Any

import numpy as np

from ._untrusted import Untrusted

_LONGEST = 1 << 17  # operations; a batch of CIFAR-10 has 30,000
_MARK = object()


class Bytes:
    """Stands for a NumPy array of uint8; no code of NumPy's is run before it is complete."""

    def __init__(self, *_: Any) -> None:
        self.shape: tuple[int, ...] = ()
        self.data = b""

    def set(self, state: Any) -> None:
        """Take what NumPy calls the state of an array."""
        _, shape, dtype, fortran, data = state
        if not (isinstance(dtype, Dtype) and dtype.code in (b"u1", "u1") and not fortran):
            raise ValueError("an array of something else than bytes, or by columns")
        if not all(type(length) is int and length >= 0 for length in shape):
            raise ValueError("an array without a shape")
        if type(data) is not bytes:
            raise ValueError("an array without its bytes")
        self.shape, self.data = shape, data

    def array(self) -> np.ndarray:
        """The array, which fails if its shape is not that of its bytes."""
        return np.frombuffer(self.data, np.uint8).reshape(self.shape)


class Dtype:
    """Stands for its type."""

    def __init__(self, code: Any = None, *_: Any) -> None:
        self.code = code

    def set(self, state: Any) -> None:
        """Of a type of bytes, the state says nothing more."""


_NAMES = {
    "numpy.core.multiarray _reconstruct": Bytes,
    "numpy._core.multiarray _reconstruct": Bytes,
    "numpy ndarray": Bytes,
    "numpy dtype": Dtype,
}


class _Machine:
    """A pickle is a program for a machine with a stack and a memory; this one can do little."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memory: dict[int, Any] = {}

    def pop(self, n: int) -> list[Any]:
        """The topmost `n` values."""
        taken = [self.stack.pop() for _ in range(n)]
        if _MARK in taken:
            raise ValueError("a mark is missing")
        return taken[::-1]

    def above_mark(self) -> list[Any]:
        """The values above the topmost mark, which goes too."""
        taken = []
        while (value := self.stack.pop()) is not _MARK:
            taken.append(value)
        return taken[::-1]

    def append(self, items: list[Any]) -> None:
        """Add to the list on top."""
        if type(self.stack[-1]) is not list:
            raise ValueError("no list to add to")
        self.stack[-1].extend(items)

    def insert(self, items: list[Any]) -> None:
        """Add keys and values, in turn, to the dictionary on top.

        Keys are strings: hashing a deep tuple would overflow the stack, and hashes of numbers can
        be made to collide.
        """
        keys, values = items[::2], items[1::2]
        if type(self.stack[-1]) is not dict or not all(type(key) in (bytes, str) for key in keys):
            raise ValueError("no dictionary of strings")
        self.stack[-1].update(zip(keys, values, strict=True))

    def name(self, name: str) -> None:
        """Push what a name stands for."""
        if name not in _NAMES:
            raise ValueError(f"it calls {name.replace(' ', '.')}, which no data set needs")
        self.stack.append(_NAMES[name])

    def call(self, function: Any, arguments: Any) -> None:
        """Push an array or a type that is still empty."""
        if function is not Bytes and function is not Dtype:
            raise ValueError("it calls what is no function")
        self.stack.append(function(*arguments))

    def build(self, state: Any) -> None:
        """Fill the array or the type on top."""
        if type(self.stack[-1]) not in (Bytes, Dtype):
            raise ValueError("no array to fill")
        self.stack[-1].set(state)

    def keep(self, place: int) -> None:
        """Remember the topmost value."""
        self.memory[place] = self.stack[-1]


# All that the protocols 2 to 5 need for data; `given` is what stands behind the operation.
_OPERATIONS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda m, given: None),
    **dict.fromkeys(("BININT", "BININT1", "BININT2"), lambda m, given: m.stack.append(given)),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES"), lambda m, given: m.stack.append(given)),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE"), lambda m, given: m.stack.append(given)),
    # Strings of Python 2 are of bytes.
    **dict.fromkeys(
        ("BINSTRING", "SHORT_BINSTRING"), lambda m, given: m.stack.append(given.encode("latin-1"))
    ),
    "NONE": lambda m, _: m.stack.append(None),
    "NEWFALSE": lambda m, _: m.stack.append(False),
    "NEWTRUE": lambda m, _: m.stack.append(True),
    "MARK": lambda m, _: m.stack.append(_MARK),
    "EMPTY_LIST": lambda m, _: m.stack.append([]),
    "EMPTY_DICT": lambda m, _: m.stack.append({}),
    "EMPTY_TUPLE": lambda m, _: m.stack.append(()),
    "TUPLE1": lambda m, _: m.stack.append(tuple(m.pop(1))),
    "TUPLE2": lambda m, _: m.stack.append(tuple(m.pop(2))),
    "TUPLE3": lambda m, _: m.stack.append(tuple(m.pop(3))),
    "TUPLE": lambda m, _: m.stack.append(tuple(m.above_mark())),
    "APPEND": lambda m, _: m.append(m.pop(1)),
    "APPENDS": lambda m, _: m.append(m.above_mark()),
    "SETITEM": lambda m, _: m.insert(m.pop(2)),
    "SETITEMS": lambda m, _: m.insert(m.above_mark()),
    "BINPUT": lambda m, given: m.keep(given),
    "LONG_BINPUT": lambda m, given: m.keep(given),
    "MEMOIZE": lambda m, _: m.keep(len(m.memory)),
    "BINGET": lambda m, given: m.stack.append(m.memory[given]),
    "LONG_BINGET": lambda m, given: m.stack.append(m.memory[given]),
    "GLOBAL": lambda m, given: m.name(given),
    "STACK_GLOBAL": lambda m, _: m.name(" ".join(m.pop(2))),
    "REDUCE": lambda m, _: m.call(*m.pop(2)),
    "BUILD": lambda m, _: m.build(*m.pop(1)),
}


def unpickled(where: Untrusted, data: bytes) -> Any:
    """What a pickle holds, strings of Python 2 as bytes, arrays as `Bytes`.

    The standard library takes a pickle apart; it does not run it. An operation or a name that is
    not listed here is refused, so no pickle can have code run, or take more memory than it has
    bytes, but for a small factor.

    Args:
        where: what to call it in messages.
        data: the pickle.

    Raises:
        ValueError: it is damaged, too long, or does anything else.
    """
    machine = _Machine()
    with where.parsing():
        for n, (operation, given, _) in enumerate(pickletools.genops(data)):
            if operation.name not in _OPERATIONS:
                raise ValueError(f"it has {operation.name}, which no data set needs")
            if n == _LONGEST:
                raise ValueError("too long a program")
            _OPERATIONS[operation.name](machine, given)
        (value,) = machine.stack
    return value
