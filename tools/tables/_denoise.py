"""The table of the learned denoisers."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._runs import Run, Table, above, by_method, each, listed, mean

COLUMNS = (
    "method", "meta-steps", "dB of each seed", "mean", "above `tv`, in pairs", "before",
    "from the minimiser, at most", "minutes",
)  # fmt: skip


def table(results: dict[str, Any]) -> Table:
    """Of each method the signal-to-noise ratio, and how far images are from their minimisers."""
    of = by_method(results)
    order = sorted(of, key=lambda name: of[name][0]["meta_steps"])
    return COLUMNS, [_row(name, of[name], of.get("tv", [])) for name in order]


def _row(name: str, runs: list[Run], least: list[Run]) -> list[str]:
    gained = [] if name == "tv" else above(runs, least)
    return [
        f"`{name}`", str(runs[0]["meta_steps"]),
        listed(each(runs, "value"), 2), mean(each(runs, "value"), 2),
        mean(gained, 2) if gained else "", f"{np.mean(each(runs, 'noisy')):.2f}",
        f"{max(each(runs, 'certified')):.4f}", f"{np.mean(each(runs, 'seconds')) / 60:.1f}",
    ]  # fmt: skip
