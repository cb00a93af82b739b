"""How figures look: one size of type, and one colour and marker a method wherever it is drawn."""

from __future__ import annotations

from typing import Any, NamedTuple
from zlib import crc32

# Told apart by most colour-blind eyes, and of contrast 3 or more on white and on near black alike.
# In the order of matplotlib's own ten, whose names they take over: C0 is blue, C3 red.
BLUE, ORANGE, GREEN, RED, PURPLE, BROWN, PINK, GREY, OLIVE, TEAL = PALETTE = (
    "#2f78d6", "#c2680c", "#23893b", "#d43d1a", "#8b62d9", "#97682a", "#c9468f", "#7a7f87",
    "#7c7d12", "#0f8a8f",
)  # fmt: skip
MARKERS = "os^Dv<>pPX*h"

# On a page of half the width of the widest figures, of ten inches, type is 5 points high.
RC: dict[Any, Any] = {
    "font.size": 10, "axes.titlesize": 10, "axes.labelsize": 10, "legend.fontsize": 9,
    "xtick.labelsize": 9, "ytick.labelsize": 9, "lines.linewidth": 1.5, "lines.markersize": 5,
    "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
    "axes.prop_cycle": f"cycler(color={list(PALETTE)!r})", "figure.dpi": 100, "savefig.dpi": 160,
    "figure.constrained_layout.use": True,
}  # fmt: skip


class Look(NamedTuple):
    """The colour and the marker of a method, as matplotlib takes them."""

    color: str
    marker: str

    def line(self, **more: Any) -> dict[str, Any]:
        """The arguments of `plot` for a line with its marker."""
        return {"color": self.color, "marker": self.marker, **more}


# Of the rule itself in reds and warm colours, backpropagation through training in blues, implicit
# gradients in greens, what takes no part of them in greys. Where one figure has several of a kind,
# they differ in colour too.
_LOOKS = {
    "contrastive": (RED, "o"), "contrastive, forward": (ORANGE, "v"),
    "contrastive, symmetric": (RED, "o"), "contrastive, holomorphic": (PINK, "D"),
    "contrastive-symmetric": (ORANGE, "v"), "contrastive-linear": (PINK, "D"),
    "contrastive-plain": (GREY, ">"), "contrastive-anchored": (BROWN, "P"),
    "linear nudge": (PINK, "D"),
    "cml": (RED, "o"), "cml-gd": (RED, "o"), "cml-sgd": (ORANGE, "v"), "cml-gn": (PINK, "D"),
    "cml-gd-suggested": (GREEN, "8"), "cml-suggested": (ORANGE, "v"),
    "cml-mod": (BROWN, "P"), "cml-syn": (RED, "o"), "cml-head": (ORANGE, "v"),
    "paper-gd": (RED, ">"), "paper-sgd": (ORANGE, "^"), "paper-maml": (BLUE, "p"),
    "paper-gd-tuned": (BROWN, "1"), "paper-sgd-tuned": (PINK, "x"), "paper-maml-tuned": (TEAL, "+"),
    "paper-scratch": (GREY, "d"),
    "cml-eprop": (RED, "o"), "cml-eprop-random": (ORANGE, "v"),
    "unrolled": (BLUE, "s"), "maml": (BLUE, "s"), "bptt": (BLUE, "s"), "backprop": (BLUE, "s"),
    "unrolled, truncated": (TEAL, "<"), "unrolled, truncated to 10": (TEAL, "<"),
    "unrolled, rematerialised": (PURPLE, "D"), "tbptt": (TEAL, "<"), "eprop-tbptt": (TEAL, "<"),
    "maml-rates": (TEAL, "<"), "anil": (TEAL, "<"), "eprop-bptt": (PURPLE, "*"),
    "trajectory": (PURPLE, "*"), "maml-trajectory": (PURPLE, "*"),
    "implicit, CG": (GREEN, "^"), "implicit-cg": (GREEN, "^"), "cg": (GREEN, "^"),
    "imaml-cg": (GREEN, "^"), "implicit, Hessian-free CG": (BROWN, ">"),
    "implicit, Neumann": (OLIVE, "p"), "neumann": (OLIVE, "p"),
    "implicit, identity": (GREY, "P"), "t1t2": (BLUE, "X"),
    "first order": (BROWN, "X"), "fomaml": (OLIVE, "X"), "reptile": (GREY, "h"),
    "evolution": (PURPLE, "d"),
    "equilibrium-propagation": (GREEN, "^"), "predictive-coding": (PURPLE, "D"),
    "node-perturbation": (GREY, "h"), "feedback-alignment": (ORANGE, "v"),
    "direct-feedback-alignment": (PINK, "<"),
    "equilibrium-propagation-far": (TEAL, ">"), "predictive-coding-far": (BROWN, "P"),
    "layer": (ORANGE, "v"), "grid": (PINK, "s"),
    "scratch": (GREY, "h"), "none": (GREY, "h"), "uniform": (GREY, "h"), "clean": (PURPLE, "*"),
    "valid": (BROWN, "s"), "neural-linear": (PURPLE, "*"),
    "neural-linear-tuned": (TEAL, "X"), "paper-eprop": (BROWN, "P"), "cml-eprop-long": (PINK, "D"),
}  # fmt: skip


def look(method: str) -> Look:
    """How a method is drawn: the same on every page.

    A label of several words, as `20w1s maml vinyals`, is drawn as the method in it. One that is
    not known yet gets a colour and a marker of its own name.

    Example:
        >>> look("maml") == look("20w1s maml vinyals")
        True
    """
    for name in (method, *method.split()):
        if name in _LOOKS:
            return Look(*_LOOKS[name])
    n = crc32(method.encode())
    return Look(PALETTE[n % len(PALETTE)], MARKERS[n // len(PALETTE) % len(MARKERS)])
