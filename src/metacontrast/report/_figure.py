"""Figures, where the `plots` extra is installed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .._must import Count
from ..train import is_first
from ._style import RC


def figure(
    path: Path,
    draw: Callable[[Any], None],
    rows: Count = 1,
    columns: Count = 1,
    size: tuple[float, float] = (3.2, 2.6),
) -> Path | None:
    """Draw on a grid of axes, all in one style, and save `path` as PNG and PDF.

    Args:
        path: without a suffix.
        draw: is handed the array of axes, of shape (rows, columns).
        rows: of axes.
        columns: of axes.
        size: of each, width and height in inches.

    Returns:
        The path of the PNG; None, and a line that says so, where matplotlib is not installed.
        Of several processes only the first one draws.
    """
    if not is_first():
        return None
    try:
        import matplotlib

        matplotlib.use("agg")
        import matplotlib.pyplot as plt
    except ImportError:
        print("No figure: matplotlib is not installed (pip install 'metacontrast[plots]').")
        return None
    inches = (size[0] * columns, size[1] * rows)
    with plt.rc_context(RC):
        fig, axes = plt.subplots(rows, columns, figsize=inches, squeeze=False)
        draw(axes)
        for suffix in (".pdf", ".png"):
            fig.savefig(path.with_suffix(suffix))
    plt.close(fig)
    return path.with_suffix(".png")
