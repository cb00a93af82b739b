"""Memory and time against inner steps, tasks and weights."""

from __future__ import annotations

from typing import Any

from ._measure import Measurement

_MARKS = {"contrastive": "o-C3", "unrolled": "s-C0"}


def draw(tables: dict[str, list[Measurement]], axes: Any) -> None:
    """A row of memory above a row of time; a column for each thing that grows."""
    for (title, measurements), ax in zip(tables.items(), axes.T.flat, strict=True):
        quantity, size = title.split(" by ")
        for i, (name, xs, ys) in enumerate(curves(measurements)):
            mark = _MARKS.get(name, f"{'^Dv'[i % 3]}--C{i + 2}")
            ax.loglog(xs, ys, mark, ms=4, lw=1.2, label=name)
        label_powers(ax)
        ax.set_xlabel(size)
        ax.set_ylabel(quantity)
    axes.flat[0].legend(fontsize=6.5)
    axes[1, 0].legend(fontsize=6.5)


def label_powers(ax: Any) -> None:
    """Labels at powers of ten alone: those between them would overlap on a short axis."""
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_minor_formatter(lambda *_: "")


def curves(measurements: list[Measurement]) -> list[tuple[str, list[float], list[float]]]:
    """(name, sizes, values) of each subject; columns that are no size are left out."""
    sized = [m for m in measurements if m.quantity.replace(",", "").isdigit()]
    names = dict.fromkeys(m.subject for m in sized)
    return [
        (
            name,
            [float(m.quantity.replace(",", "")) for m in sized if m.subject == name],
            [m.value for m in sized if m.subject == name],
        )
        for name in names
    ]
