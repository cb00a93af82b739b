"""Memory and time against inner steps, tasks and weights."""

from __future__ import annotations

from typing import Any

from ._measure import Figure

_MARKS = dict(zip(("contrastive", "unrolled"), ("o-C3", "s-C0"), strict=True))


def panels(tables: dict[str, list[Figure]], axes: Any) -> None:
    """A row of memory above a row of time; a column for each thing that grows."""
    for (title, figures), ax in zip(tables.items(), axes.T.flat, strict=True):
        what, by = title.split(" by ")
        for i, (name, xs, ys) in enumerate(curves(figures)):
            mark = _MARKS.get(name, f"{'^Dv'[i % 3]}--C{i + 2}")
            ax.loglog(xs, ys, mark, ms=4, lw=1.2, label=name)
        plain(ax)
        ax.set_xlabel(by)
        ax.set_ylabel(what)
    axes.flat[0].legend(fontsize=6.5)
    axes[1, 0].legend(fontsize=6.5)


def plain(ax: Any) -> None:
    """Labels at powers of ten alone: those between them would overlap on a short axis."""
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_minor_formatter(lambda *_: "")


def curves(figures: list[Figure]) -> list[tuple[str, list[float], list[float]]]:
    """(name, sizes, values) of each subject; columns that are no size are left out."""
    sized = [f for f in figures if f.quantity.replace(",", "").isdigit()]
    names = dict.fromkeys(f.subject for f in sized)
    return [
        (
            name,
            [float(f.quantity.replace(",", "")) for f in sized if f.subject == name],
            [f.value for f in sized if f.subject == name],
        )
        for name in names
    ]
