"""Who is compared on the sine task, and with which of our gradients each must agree."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np

import metacontrast as mc

from ._sine import Case, Step, case, cg, contrastive, ours

# All agree to round-off, 1e-15, but conjugate gradients, whose directions lose their orthogonality.
AGREE = 1e-6


class Rival(NamedTuple):
    """A way to the meta-gradient of the sine task.

    `make(case)` builds it, `needs` names the packages to import, and `like` the subject among ours
    that gives the same numbers.
    """

    make: Callable[[Case], Step]
    needs: tuple[str, ...] = ()
    like: str = ""


def _adapter(module: str, name: str) -> Callable[[Case], Step]:
    """Imported only when it is made: it brings in its library."""

    def make(at: Case) -> Step:
        step: Step = getattr(import_module(f".{module}", __package__), name)(at)
        return step

    return make


OURS, UNROLLED, IMPLICIT = "contrastive", "JAX unrolled", "JAX implicit, CG"
HIGHER, TORCHOPT = ("torch", "higher"), ("torch", "torchopt")
_PLAIN, _LIBRARIES = (partial(_adapter, name) for name in ("_torch_plain", "_torch_libraries"))
RIVALS = {
    OURS: Rival(partial(ours, contrastive)),
    UNROLLED: Rival(partial(ours, lambda at: mc.Unrolled())),
    IMPLICIT: Rival(partial(ours, cg)),
    "JAXopt implicit, CG": Rival(_adapter("_jaxopt", "jaxopt_implicit"), ("jaxopt",), IMPLICIT),
    "PyTorch eager, contrastive": Rival(_PLAIN("eager_contrastive"), ("torch",), OURS),
    "PyTorch vmap, contrastive": Rival(_PLAIN("vmap_contrastive"), ("torch",), OURS),
    "PyTorch eager, unrolled": Rival(_PLAIN("eager_unrolled"), ("torch",), UNROLLED),
    "PyTorch vmap, unrolled": Rival(_PLAIN("vmap_unrolled"), ("torch",), UNROLLED),
    "higher, unrolled": Rival(_LIBRARIES("higher_unrolled"), HIGHER, UNROLLED),
    "TorchOpt, unrolled": Rival(_LIBRARIES("torchopt_unrolled"), TORCHOPT, UNROLLED),
    "TorchOpt vmap, unrolled": Rival(_LIBRARIES("torchopt_vmap"), TORCHOPT, UNROLLED),
}


def present() -> tuple[dict[str, Rival], dict[str, str]]:
    """Those whose packages are installed; and of the others why they are absent."""
    here, absent = {}, {}
    for name, rival in RIVALS.items():
        missing = [package for package in rival.needs if find_spec(package) is None]
        if missing:
            absent[name] = f"{', '.join(missing)} not installed"
        else:
            here[name] = rival
    if find_spec("learn2learn") is None:
        absent["learn2learn"] = (
            "not installed: the C file in its source distribution (0.2.0) includes longintrepr.h, "
            "which CPython has moved since 3.11, so that it does not build"
        )
    return here, absent


def disagreement(name: str, expected: np.ndarray) -> float:
    """Relative distance of a rival's meta-gradient from ours, in the small case."""
    found = RIVALS[name].make(small_case())()
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def small_case() -> Case:
    """Two tasks and thirty steps in float64, where all agree to round-off."""
    return case(2, 30, np.float64)
