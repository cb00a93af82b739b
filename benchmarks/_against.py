"""Parts `sine` and `conv4`: against other libraries, on the same numbers."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec

import jax
import numpy as np

from ._conv4 import Conv4Case, conv4_training
from ._first_result import time_first_result
from ._measure import Measurement, Program, ratios, summarise, time_in_turns
from ._methods import METHODS, OURS, TOLERANCE, Method, installed, relative_difference, small_case
from ._result import PartResult, Progress
from ._sine import Gradient, SineCase, sine_case

CONV4 = {
    "stride, 20-way, 1 task": Conv4Case(64, True, 20, 1, 5),
    "stride, 20-way, 4 tasks": Conv4Case(64, True, 20, 4, 5),
    "pooling, 5-way, 1 task": Conv4Case(64, False, 5, 1, 5),
}


def against_sine(quick: bool, progress: Progress) -> PartResult:
    """Meta-gradients of the sine task: speed, first result and memory of every library.

    Each must first agree with ours, in float64.

    Raises:
        ArithmeticError: one does not, so that its speed would mean nothing.
    """
    methods, absent = installed()
    check_agreement([name for name, method in methods.items() if method.like], progress)
    case = sine_case(5, 20) if quick else sine_case()
    made = {name: _best_threads(method, case) for name, method in methods.items()}
    progress("all, in turns")
    programs = {name: gradient for name, (gradient, _) in made.items()}
    seconds = time_in_turns(programs, 3 if quick else 7, 0.1, max_total=10 if quick else 100)
    rows = []
    for name, method in methods.items():
        rows += [
            summarise(name, "meta-gradients a second", 1 / seconds[name]),
            summarise(name, "time / ours", ratios(seconds, name, OURS)),
        ]
        if not quick:
            progress(f"{name}: in a fresh process")
            imports = method.packages or ("metacontrast", "metacontrast.nets")
            first = time_first_result(name, imports, case, made[name][1])
            rows += [
                Measurement(name, "first result (s)", first.seconds),
                Measurement(name, "memory (MiB)", first.mib),
            ]
    title = f"A meta-gradient of {len(case.train[0])} sines, {case.steps} inner steps"
    return PartResult({title: rows}, absent)


def _best_threads(method: Method, case: SineCase) -> tuple[Gradient, int | None]:
    """The method, and the number of threads that serves it best; JAX decides for itself."""
    if "torch" not in method.packages:
        return method.make(case), None
    from ._torch_threads import with_best_threads

    return with_best_threads(method.make, case)


def check_agreement(names: Iterable[str], progress: Progress) -> None:
    """Raise unless each of these methods gives our meta-gradient."""
    with jax.enable_x64(True):
        kinds = {METHODS[name].like for name in names}
        ours = {like: METHODS[like].make(small_case())() for like in kinds}
        for name in names:
            progress(f"{name}: compared")
            difference = relative_difference(name, ours[METHODS[name].like])
            if not difference <= TOLERANCE:
                raise ArithmeticError(
                    f"{name}: its meta-gradient is {difference:.1e} (relative) away from ours; it "
                    "may have changed what it computes, and is not timed."
                )


def against_conv4(quick: bool, progress: Progress) -> PartResult:
    """An inner step of Conv4: our convolutions on this machine against PyTorch's own."""
    absent = {} if find_spec("torch") else {"PyTorch": "torch not installed"}
    cases = dict(list(CONV4.items())[:1]) if quick else CONV4
    for strided in () if absent else {case.strided for case in cases.values()}:
        progress("compared")
        _check_conv4(Conv4Case(8, strided, 5, 2, 3))
    rows = []
    for name, case in cases.items():
        progress(name)
        programs = _conv4_programs(case, bool(absent))
        seconds = time_in_turns(programs, 3 if quick else 15, 0.1, max_total=5 if quick else 20)
        steps = case.steps * case.tasks
        rows += [summarise(name, "ours (ms)", 1e3 * seconds["ours"] / steps)]
        if not absent:
            torch = np.min([seconds[each] for each in seconds if each != "ours"], axis=0)
            rows += [
                summarise(name, "PyTorch (ms)", 1e3 * torch / steps),
                summarise(name, "PyTorch / ours", torch / seconds["ours"]),
            ]
    return PartResult({"Conv4, an inner step of a task": rows}, absent)


def _conv4_programs(case: Conv4Case, alone: bool) -> dict[str, Program]:
    learn, omega, data = conv4_training(case)
    programs: dict[str, Program] = {"ours": lambda: jax.block_until_ready(learn(omega, data))}
    if not alone:
        from ._torch_conv4 import torch_programs

        programs |= torch_programs(case, omega, data)
    return programs


def _check_conv4(case: Conv4Case) -> None:
    from ._torch_conv4 import torch_programs

    with jax.enable_x64(True):
        learn, omega, data = conv4_training(case, np.float64)
        ours = np.asarray(learn(omega, data)[0]["w"])
        theirs = [learn() for learn in torch_programs(case, omega, data).values()]
    if not np.allclose(theirs, ours, rtol=0, atol=TOLERANCE):
        raise ArithmeticError("PyTorch's Conv4 does not learn what ours does, and is not timed.")
