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
    "capacity": "items held of 10 to learn from, of 10 test items",
    "memory_noise": "noise on stored items",
    "decay": "fraction of a tag lost in a step",
    "tag_noise": "relative noise of what is tagged",
    "jitter": "signal early or late, steps at most",
    "at_once": "rate of consolidating at once",
}


def draw_panels(root: Path, axes: Any) -> None:
    """Mean over the seeds found below `root`, each seed a small dot; and the perfect process."""
    for ax, (field, levels) in zip(axes.flat, PANELS.items(), strict=True):
        for name, colour, style in (("batch", "0.3", ":"), ("online", "C0", "--")):
            if (perfect := _values(root, name, "value")).size:
                label = {"batch": "the ordinary rule", "online": "online, perfect"}[name]
                ax.axhline(perfect.mean(), color=colour, ls=style, label=label)
        keys = [("value", "C3", "o-", "online, spoiled")]
        if field in ("capacity", "memory_noise"):
            keys.append(("own_memory", "C1", "s-", "and tested with the spoiled memory"))
        for key, colour, style, label in keys:
            found = {x: _values(root, f"{field.replace('_', '-')}-{x:g}", key) for x in levels}
            found = {x: values for x, values in found.items() if values.size}
            means = [values.mean() for values in found.values()]
            ax.plot(list(found), means, style, color=colour, label=label)
            for x, values in found.items():
                ax.plot(np.full(len(values), x), values, ".", color=colour, ms=3)
        ax.set_xscale("linear" if field == "capacity" else "log")
        ax.set_yscale("log")
        ax.set_xlabel(_LABELS[field])
    for ax in axes[:, 0]:
        ax.set_ylabel("mean squared error")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    axes.flat[0].figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))


def _values(root: Path, name: str, key: str) -> np.ndarray:
    found = sorted((root / name).glob("seed*/result.json"))
    return np.array([read_result(path.parent)[key] for path in found])
