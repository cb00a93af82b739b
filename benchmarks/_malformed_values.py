"""What is malformed for a parameter: by its annotation and its documented range, not by outcome."""

from __future__ import annotations

import inspect
import types
import typing
from collections import abc
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import AbstractArray, PyTree

# Documented ranges, by parameter: some numbers outside. Infinity lies outside of each of these, and
# NaN is no number of any parameter.
RANGES: dict[str, tuple[float, ...]] = {
    **dict.fromkeys(("sigma", "tol", "threshold", "scale", "delta_prime_0", "lam"), (0.0, -1.0)),
    **dict.fromkeys(("damping", "noise", "at_once", "decay", "distort", "strength"), (-1.0,)),
    **dict.fromkeys(("iterations", "steps", "max_steps", "pairs", "differences"), (0, -1)),
    **dict.fromkeys(("samples", "sweeps", "trials", "repeats", "batch", "tasks"), (0, -1)),
    **dict.fromkeys(("classes", "channels", "size", "filters", "inputs", "width"), (0, -1)),
    **dict.fromkeys(("outputs", "neurons", "heads", "length", "symbols", "stride"), (0, -1)),
    **dict.fromkeys(("way", "shot", "query", "shots", "queries", "pulls", "chars"), (0, -1)),
    **dict.fromkeys(("capacity", "log_every", "steps_per_dispatch", "views"), (0, -1)),
    **dict.fromkeys(("task_batch_size", "average_from", "max_values", "fewest"), (0, -1)),
    **dict.fromkeys(("rows", "columns", "devices", "parameters", "truncate"), (0, -1)),
    **dict.fromkeys(("processes", "depth"), (0, -1)),
    **dict.fromkeys(("alpha", "kappa"), (-0.5, 1.0)),
    **dict.fromkeys(("padding", "jitter", "process"), (-1,)),
    **dict.fromkeys(("order",), (0, -1)),
    "beta": (0.0,),
    "gamma": (0.0, -1.0, 2.0),
    "nudge": (0.0, -1.0),
    "rate": (0.0, -1.0),
    "variance": (0.0, -1.0),
    "seed": (-1, 2**32),
    "h": (0.0, -1.0),
}
ANY = "any"  # the kind of what is handed on to the caller's own functions, unseen


def kinds(hint: Any) -> list[Any]:
    """The members of a union, plain: without what annotates them."""
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        return kinds(typing.get_args(hint)[0])
    if origin in (typing.Union, types.UnionType):
        return [kind for part in typing.get_args(hint) for kind in kinds(part)]
    return [hint]


def _is_array(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, (jax.Array, np.ndarray, AbstractArray))


def _is_callable(kind: Any) -> bool:
    protocol = inspect.isclass(kind) and getattr(kind, "_is_protocol", False)
    return typing.get_origin(kind) is abc.Callable or protocol


def _holds_anything(kind: Any) -> bool:
    return typing.get_args(kind)[-1:] == (PyTree,) and not _is_callable(kind)


def _is_text(kind: Any) -> bool:
    return kind in (str, Path)


def malformed(
    name: str,
    hint: Any,
    valid: Any,
    as_kind: str | None = None,
    outside: tuple[Any, ...] | None = None,
) -> dict[str, Any]:
    """By what is wrong with it, values that a parameter of this annotation cannot take.

    Args:
        name: of the parameter, by which its documented range is known.
        hint: its annotation; None if there is none.
        valid: a value that it takes.
        as_kind: what the annotation does not tell: ANY; "key"; "array" or "tree" of numbers, of the
            structure and shapes of `valid`; "task", of which finite ones are asked for too, and
            "learned", of which floating ones are; "torch", a tree of tensors.
        outside: numbers outside of the range, where the name alone does not tell.
    """
    if as_kind == ANY or (as_kind is None and hint in (Any, object, None)):
        return {}
    members = kinds(hint)
    is_none_fine = type(None) in members or (valid is None and PyTree in members)
    numbers = [kind for kind in members if kind in (int, float, complex)]
    functions = any(map(_is_callable, members))
    values: dict[str, Any] = {"an object": object()}
    of_anything = any(
        typing.get_args(kind)[-1:] == (PyTree,) for kind in members if not _is_callable(kind)
    )
    if not of_anything:
        values |= {"a list of objects": [object()], "a dict of objects": {"nonsense": object()}}
    if not any(map(_is_text, members)):
        values["text"] = "text"
    if not is_none_fine:
        values["None"] = None
    if functions:
        values["a function without arguments" if name != "act" else "a function of one"] = (
            (lambda: None) if name != "act" else (lambda x: x)
        )
    else:
        values["a function"] = lambda *_: None
    if not numbers and PyTree not in members and not any(map(_is_array, members)):
        values["a number"] = 3.7
    values |= _numbers(numbers, RANGES.get(name, ()) if outside is None else outside)
    if bool in members:
        values["a whole number"] = 2
    if any(map(_is_array, members)) and not numbers:
        values["an array of text"] = np.array(["text"])
    if as_kind in ("array", "tree", "task", "learned", "key"):
        values |= _shapes(valid, as_kind)
    return values


def _numbers(numbers: list[Any], outside: tuple[Any, ...]) -> dict[str, Any]:
    if not numbers:
        return {type(x).__name__: x for x in outside if not isinstance(x, int | float)}
    values = {str(x): int(x) if numbers == [int] else x for x in outside}
    values["a bool"] = True
    values["not a number"] = float("nan")
    if numbers == [int]:
        return values | {"a fraction": 1.5, "text of a number": "1"}
    if outside:
        values["infinity"] = float("inf")
    return values | {"text of a number": "0.1"}


def _shapes(valid: Any, as_kind: str) -> dict[str, Any]:
    if as_kind == "key":
        return {"numbers": jnp.ones(3), "a number": 0.5, "keys": jax.random.split(valid, 3)}
    longer = lambda leaf: np.ones((*np.shape(leaf), 7), np.result_type(leaf))
    values = {"other shapes": jax.tree.map(longer, valid)}
    if as_kind != "array":
        values["another structure"] = {"nonsense": jnp.ones(7)}
    if as_kind == "learned":
        values["integers"] = jax.tree.map(lambda leaf: np.ones(np.shape(leaf), int), valid)
    if as_kind in ("task", "learned"):
        values["not numbers"] = jax.tree.map(lambda x: np.full(np.shape(x), np.nan), valid)
    return values
