"""Memory and time against inner steps, tasks and weights."""

from __future__ import annotations

from typing import Any

from metacontrast.report import look

from ._measure import Measurement


def draw(tables: dict[str, list[Measurement]], axes: Any) -> None:
    """A row of memory above a row of time; a column for each thing that grows."""
    for (title, measurements), ax in zip(tables.items(), axes.T.flat, strict=True):
        quantity, size = title.split(" by ")
        for name, xs, ys in curves(measurements):
            ax.loglog(xs, ys, **look(name).line(ls="--" if "," in name else "-", label=name))
        label_powers(ax)
        ax.set_xlabel(size)
        ax.set_ylabel(quantity)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    axes.flat[0].figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))


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
