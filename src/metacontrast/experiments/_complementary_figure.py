"""The figure of the complementary experiment: error against each imperfection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..train import read_result

# What is spoiled, and how badly; the methods are named after them.
PANELS: dict[str, tuple[float, ...]] = {
    "capacity": (2, 3, 5, 8),
    "memory_noise": (0.1, 0.3, 1.0),
    "decay": (1e-4, 1e-3, 1e-2),
    "tag_noise": (0.01, 0.1, 1.0),
    "jitter": (1, 10, 40),
    "at_once": (1e-5, 1e-4, 1e-3),
}
_LABELS = {
    "capacity": "items held of each 10",
    "memory_noise": "noise on stored items",
    "decay": "fraction of a tag lost in a step",
    "tag_noise": "relative noise of what is tagged",
    "jitter": "signal early or late, steps at most",
    "at_once": "rate of consolidating at once",
}


def draw_panels(root: Path, axes: Any) -> None:
    """Of the seeds found below `root`: means, each a small dot, and a line where all is perfect.

    Seeds differ more than many imperfections matter: compare within a seed.
    """
    for ax, (field, levels) in zip(axes.flat, PANELS.items(), strict=True):
        _perfect(root, "batch", ax, color="0.8", lw=4, label="the ordinary rule, a line a seed")
        _perfect(root, "online", ax, color="C0", ls="--", label="online, perfect")
        _spoiled(root, field, levels, "value", ax, "C3o-", "online, spoiled")
        if field in ("capacity", "memory_noise"):
            _spoiled(root, field, levels, "own_memory", ax, "C1s-", "tested with that memory too")
        ax.set_xscale("linear" if field == "capacity" else "log")
        ax.set_yscale("log")
        ax.set_xlabel(_LABELS[field])
    limits = np.array([ax.get_ylim() for ax in axes.flat])
    for ax in axes.flat:
        ax.set_ylim(limits[:, 0].min(), limits[:, 1].max())
    for ax in axes[:, 0]:
        ax.set_ylabel("mean squared error")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    axes.flat[0].figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))


def _perfect(root: Path, name: str, ax: Any, label: str, **style: Any) -> None:
    for value in _values(root, name, "value"):
        ax.axhline(value, label=label, **style)
        label = "_"  # of the others none: matplotlib leaves it out


def _spoiled(
    root: Path, field: str, levels: tuple[float, ...], key: str, ax: Any, style: str, label: str
) -> None:
    found = {x: _values(root, f"{field.replace('_', '-')}-{x:g}", key) for x in levels}
    found = {x: values for x, values in found.items() if values.size}
    ax.plot(list(found), [values.mean() for values in found.values()], style, label=label)
    for x, values in found.items():
        ax.plot(np.full(len(values), x), values, style[:2] + ".", ms=3)


def _values(root: Path, name: str, key: str) -> np.ndarray:
    found = sorted((root / name).glob("seed*/result.json"))
    return np.array([read_result(path.parent)[key] for path in found])
