"""Pickles that can hold nothing but numbers, strings, containers and arrays of bytes."""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np


class Bytes:
    """Stands for a NumPy array of uint8 while it is unpickled; no code of NumPy's is run."""

    shape: tuple[int, ...] = ()
    data = b""

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        if not (isinstance(dtype, Dtype) and dtype.code in (b"u1", "u1") and not fortran):
            raise pickle.UnpicklingError("an array of something else than bytes, or by columns")
        if not isinstance(data, bytes):
            raise pickle.UnpicklingError("an array without its bytes")
        self.shape, self.data = shape, data

    def array(self) -> np.ndarray:
        """The array, which fails if its shape is not that of its bytes."""
        return np.frombuffer(self.data, np.uint8).reshape(self.shape)


class Dtype:
    """Stands for its type."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.code = code

    def __setstate__(self, state: Any) -> None: ...


_ARRAYS = {
    ("numpy.core.multiarray", "_reconstruct"): Bytes,
    ("numpy._core.multiarray", "_reconstruct"): Bytes,
    ("numpy", "ndarray"): Bytes,
    ("numpy", "dtype"): Dtype,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ARRAYS:
            raise pickle.UnpicklingError(f"it calls {module}.{name}, which no data set needs")
        return _ARRAYS[module, name]


def unpickled(name: str, data: bytes) -> Any:
    """What a pickle holds, strings of Python 2 as bytes, arrays as `Bytes`.

    Args:
        name: what to call it in the message.
        data: the pickle. Whatever it calls for but plain containers and arrays of bytes is refused
            before it is imported, let alone run.

    Raises:
        ValueError: it is damaged, or calls for anything else.
    """
    try:
        return _Unpickler(io.BytesIO(data), encoding="bytes").load()
    # A pickle is a program: a damaged one can make its stack machine raise nearly anything.
    except Exception as error:
        raise ValueError(
            f"source: {name} cannot be read ({error}); get the archive from its official place."
        ) from error
