"""What is compared on the sine task, and with which of our gradients each must agree."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np

import metacontrast as mc

from ._sine import Gradient, SineCase, by_estimator, cg, contrastive, sine_case

# All agree to round-off, 1e-15, but conjugate gradients, whose directions lose their orthogonality.
TOLERANCE = 1e-6


class Method(NamedTuple):
    """A way to the meta-gradient of the sine task.

    `make(case)` builds it, `packages` are those that it imports, and `like` is the method of ours
    that gives the same numbers.
    """

    make: Callable[[SineCase], Gradient]
    packages: tuple[str, ...] = ()
    like: str = ""


def _adapter(module: str, name: str) -> Callable[[SineCase], Gradient]:
    """Imported only when it is made: it brings in its library."""

    def make(case: SineCase) -> Gradient:
        gradient: Gradient = getattr(import_module(f".{module}", __package__), name)(case)
        return gradient

    return make


OURS, UNROLLED, IMPLICIT = "contrastive", "JAX unrolled", "JAX implicit, CG"
HIGHER, TORCHOPT = ("torch", "higher"), ("torch", "torchopt")
_PLAIN, _LIBRARIES = (partial(_adapter, name) for name in ("_torch_plain", "_torch_libraries"))
METHODS = {
    OURS: Method(partial(by_estimator, contrastive)),
    UNROLLED: Method(partial(by_estimator, lambda case: mc.Unrolled())),
    IMPLICIT: Method(partial(by_estimator, cg)),
    "JAXopt implicit, CG": Method(_adapter("_jaxopt", "jaxopt_implicit"), ("jaxopt",), IMPLICIT),
    "PyTorch eager, contrastive": Method(_PLAIN("eager_contrastive"), ("torch",), OURS),
    "PyTorch vmap, contrastive": Method(_PLAIN("vmap_contrastive"), ("torch",), OURS),
    "PyTorch eager, unrolled": Method(_PLAIN("eager_unrolled"), ("torch",), UNROLLED),
    "PyTorch vmap, unrolled": Method(_PLAIN("vmap_unrolled"), ("torch",), UNROLLED),
    "higher, unrolled": Method(_LIBRARIES("higher_unrolled"), HIGHER, UNROLLED),
    "TorchOpt, unrolled": Method(_LIBRARIES("torchopt_unrolled"), TORCHOPT, UNROLLED),
    "TorchOpt vmap, unrolled": Method(_LIBRARIES("torchopt_vmap"), TORCHOPT, UNROLLED),
}


def installed() -> tuple[dict[str, Method], dict[str, str]]:
    """The methods whose packages are installed; and of the others why they are absent."""
    methods, absent = {}, {}
    for name, method in METHODS.items():
        missing = [package for package in method.packages if find_spec(package) is None]
        if missing:
            absent[name] = f"{', '.join(missing)} not installed"
        else:
            methods[name] = method
    if find_spec("learn2learn") is None:
        absent["learn2learn"] = (
            "not installed: the C file in its source distribution (0.2.0) includes longintrepr.h, "
            "which CPython has moved since 3.11, so that it does not build"
        )
    return methods, absent


def relative_difference(name: str, expected: np.ndarray) -> float:
    """How far a method's meta-gradient is from ours, in the small case."""
    gradient = METHODS[name].make(small_case())()
    return float(np.linalg.norm(gradient - expected) / np.linalg.norm(expected))


def small_case() -> SineCase:
    """Two tasks and thirty steps in float64, where all agree to round-off."""
    return sine_case(2, 30, np.float64)
