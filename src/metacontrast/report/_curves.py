"""Learning curves, as a drawing that a page holds and that takes the page's own colours."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any

import numpy as np

from .._optional import optional
from ._runs import Line, number
from ._style import RC, look

_INK = "#010203"  # stands for the colour of the page's text
Curves = Mapping[str, Sequence[Sequence[Line]]]  # of each method, the metrics of each seed
# In the order of preference: the first that any run has is drawn.
QUANTITIES = {"valid_loss": "validation loss", "meta_loss": "mean meta-loss"}


def quantity(curves: Curves) -> str | None:
    """What is to be drawn: the validation loss, if there is one."""
    lines = [line for seeds in curves.values() for lines in seeds for line in lines]
    return next((x for x in QUANTITIES if any(np.isfinite(number(y.get(x))) for y in lines)), None)


def spread(
    seeds: Sequence[Sequence[Line]], name: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Steps that every seed has, and there the mean, the lowest and the highest of the seeds."""
    own = [{line["step"]: number(line.get(name)) for line in lines} for lines in seeds if lines]
    steps = sorted(set.intersection(*map(set, own))) if own else []
    if not steps:
        return np.zeros(0), *np.zeros((3, 0))
    values = np.array([[curve[step] for step in steps] for curve in own])
    return np.array(steps), values.mean(0), values.min(0), values.max(0)


def svg(curves: Curves, name: str, salt: str) -> str:
    """A drawing of the curves, each in the colour of its method, with a band from seed to seed.

    Args:
        curves: of each method, the metrics of each seed.
        name: of the quantity.
        salt: tells the names within this drawing from those of others on the page.

    Returns:
        An `<svg>`, without an outer file's heading.
    """
    matplotlib = optional("matplotlib", "plots")
    matplotlib.use("agg")
    plt: Any = optional("matplotlib.pyplot", "plots")
    ink = dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK
    )
    svg_like = {"svg.fonttype": "none", "svg.hashsalt": salt, "text.parse_math": False}
    with plt.rc_context(RC | ink | svg_like):
        fig, ax = plt.subplots(figsize=(4.8, 3.0 + 0.1 * len(curves)))
        for method, seeds in curves.items():
            _draw(ax, method, spread(seeds, name))
        _scale(ax)
        ax.set(xlabel="meta-steps", ylabel=QUANTITIES[name])
        ax.grid(color=_INK, alpha=0.12, lw=0.6)
        fig.legend(loc="outside lower center", ncols=2)
        text = StringIO()
        fig.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    plt.close(fig)
    drawn = text.getvalue()
    drawn = drawn[drawn.index("<svg") :].replace(_INK, "currentColor")
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    return re.sub(r' (width|height)="[\d.]+pt"', "", drawn, count=2)


def _draw(ax: Any, method: str, drawn: tuple[np.ndarray, ...]) -> None:
    steps, mean, low, high = drawn
    if not np.isfinite(mean).any():
        return
    style = look(method)
    every = max(1, len(steps) // 6)
    label = method if not method.startswith("_") else f" {method}"  # which would be left out
    ax.plot(steps, mean, **style.line(label=label, markevery=every))
    ax.fill_between(steps, low, high, color=style.color, alpha=0.2, lw=0)


def _scale(ax: Any) -> None:
    """Logarithms, where all is positive and spans more than a factor of five."""
    drawn = [y for line in ax.lines for y in np.asarray(line.get_ydata()) if np.isfinite(y)]
    if drawn and min(drawn) > 0 and max(drawn) > 5 * min(drawn):
        from matplotlib.ticker import FuncFormatter, NullFormatter

        ax.set_yscale("log")
        plain = FuncFormatter(lambda y, _: f"{y:g}")
        few = FuncFormatter(lambda y, _: f"{y:g}" if f"{y:e}"[0] in "25" else "")
        ax.yaxis.set_major_formatter(plain)
        ax.yaxis.set_minor_formatter(NullFormatter() if max(drawn) > 200 * min(drawn) else few)
