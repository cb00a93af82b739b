"""Parts `sine` and `conv4`: against other libraries, on the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import Any

import jax
import numpy as np

from ._fresh import first
from ._images import Conv4Case, conv4_learned
from ._measure import Figure, interleaved, ratios, summary
from ._part import Found, Tell
from ._rivals import AGREE, OURS, RIVALS, Rival, disagreement, present, small_case
from ._sine import Case, Step, case

CONV4 = {
    "stride, 20-way, 1 task": Conv4Case(64, True, 20, 1, 5),
    "stride, 20-way, 4 tasks": Conv4Case(64, True, 20, 4, 5),
    "pooling, 5-way, 1 task": Conv4Case(64, False, 5, 1, 5),
}


def against_sine(quick: bool, tell: Tell) -> Found:
    """Meta-gradients of the sine task: speed, first result and memory of every library.

    Each must first agree with ours, in float64.

    Raises:
        ArithmeticError: one does not, so that its speed would mean nothing.
    """
    here, absent = present()
    agreed([name for name, rival in here.items() if rival.like], tell)
    at = case(5, 20) if quick else case()
    steps = {name: _tuned(rival, at) for name, rival in here.items()}
    tell("all, interleaved")
    subjects = {name: step for name, (step, _) in steps.items()}
    taken = interleaved(subjects, 3 if quick else 7, least=0.1, most=10 if quick else 100)
    figures = []
    for name, rival in here.items():
        figures += [
            summary(name, "meta-gradients a second", 1 / taken[name]),
            summary(name, "time / ours", ratios(taken, name, OURS)),
        ]
        if not quick:
            tell(f"{name}: in a fresh process")
            begun = first(name, rival.needs or ("metacontrast",), at, steps[name][1])
            figures += [
                Figure(name, "first result (s)", begun.seconds),
                Figure(name, "memory (MiB)", begun.mib),
            ]
    title = f"A meta-gradient of {len(at.train[0])} sines, {at.steps} inner steps"
    return Found({title: figures}, absent)


def _tuned(rival: Rival, at: Case) -> tuple[Step, int | None]:
    """The rival, and the number of threads that serves it best; JAX decides for itself."""
    if "torch" not in rival.needs:
        return rival.make(at), None
    from ._torch_threads import tuned

    return tuned(rival.make, at)


def agreed(names: Iterable[str], tell: Tell) -> None:
    """Raise unless each of these rivals finds our meta-gradient."""
    with jax.enable_x64(True):
        ours = {like: RIVALS[like].make(small_case())() for like in {RIVALS[n].like for n in names}}
        for name in names:
            tell(f"{name}: compared")
            apart = disagreement(name, ours[RIVALS[name].like])
            if not apart <= AGREE:
                raise ArithmeticError(
                    f"{name}: its meta-gradient is {apart:.1e} (relative) away from ours; it may "
                    "have changed what it computes, and is not timed."
                )


def against_conv4(quick: bool, tell: Tell) -> Found:
    """An inner step of Conv4: our convolutions on this machine against PyTorch's own."""
    absent = {} if find_spec("torch") else {"PyTorch": "torch not installed"}
    figures = []
    cases = dict(list(CONV4.items())[:1]) if quick else CONV4
    for strided in () if absent else {at.strided for at in cases.values()}:
        tell("compared")
        _same_learning(Conv4Case(8, strided, 5, 2, 3))
    for name, at in cases.items():
        tell(name)
        taken = interleaved(
            _learners(at, bool(absent)), 3 if quick else 15, 0.1, 5 if quick else 20
        )
        each = at.steps * at.tasks
        figures += [summary(name, "ours (ms)", 1e3 * taken["ours"] / each)]
        if not absent:
            torch = np.min([taken[name] for name in taken if name != "ours"], axis=0)
            figures += [
                summary(name, "PyTorch (ms)", 1e3 * torch / each),
                summary(name, "PyTorch / ours", torch / taken["ours"]),
            ]
    return Found({"Conv4, an inner step of a task": figures}, absent)


def _learners(at: Conv4Case, alone: bool) -> dict[str, Callable[[], Any]]:
    learn, omega, data = conv4_learned(at)
    subjects = {"ours": lambda: jax.block_until_ready(learn(omega, data))}
    if not alone:
        from ._torch_conv4 import settings

        subjects |= settings(at, omega, data)
    return subjects


def _same_learning(at: Conv4Case) -> None:
    from ._torch_conv4 import settings

    with jax.enable_x64(True):
        learn, omega, data = conv4_learned(at, np.float64)
        ours = np.asarray(learn(omega, data)[0]["w"])
        theirs = [learned() for learned in settings(at, omega, data).values()]
    if not np.allclose(theirs, ours, rtol=0, atol=AGREE):
        raise ArithmeticError("PyTorch's Conv4 does not learn what ours does, and is not timed.")
