"""A run that looks at its first meta-gradient before it follows any."""

from __future__ import annotations

import os

import jax
import jax.numpy as jnp

from .._diagnose import Diagnosis, diagnose
from .._types import PyTree
from .._warn import warn
from ._folder import Folder
from ._layout import to_host
from ._reduce import first_row
from ._setup import MetaStep

VARIABLE = "METACONTRAST_DIAGNOSE"  # "off": as if every run said diagnose=False
REPORT = "diagnosis.txt"


def diagnosed(step: MetaStep, theta: PyTree, folder: Folder | None) -> Diagnosis | None:
    """`diagnose` the first task of the first meta-step, with that meta-step's own keys.

    Its report is `diagnosis.txt` of the folder. Unless the verdict is "trust", a `RuntimeWarning`
    says what to do. Whatever goes wrong in here is warned of, and ends no run.

    Returns:
        The diagnosis; None where there is none, of which the file says why.
    """
    if os.environ.get(VARIABLE) == "off":
        return None
    found, text = None, _skipped(step)
    if text is None:
        try:
            found = _diagnosis(step, theta)
            text = str(found)
        except Exception as error:  # a run that would have gone well goes well without it
            text = f"not diagnosed: {type(error).__name__}: {error}"
            warn(f"{text}. The run goes on; diagnose=False leaves this out.")
    if folder is not None:
        folder.write(REPORT, text + "\n")
    if found is not None and found.verdict != "trust":
        warn(
            f"the meta-gradient of the first task, {found.verdict}: {found.advice} (All of it is "
            f"in Trained.diagnosis and {REPORT}; diagnose=False leaves this out.)"
        )
    return found


def _skipped(step: MetaStep) -> str | None:
    """Why there is no diagnosis, if there is none."""
    if jax.process_count() > 1:
        return "not diagnosed: one process cannot learn a task of a run of several by itself."
    if step.warm_start is not None:
        return "not diagnosed: the phases of a warm start have not learned the task by themselves."
    return None


def _diagnosis(step: MetaStep, theta: PyTree) -> Diagnosis:
    drawing, learning = first_row(step.keys(0))
    return diagnose(
        step.layout.shard_phi(step.problem),
        step.solver,
        step.estimator_at(0),
        jax.tree.map(jnp.asarray, to_host(theta)),  # committed to no device
        jax.jit(step.sample_task)(drawing),
        learning,
        features=step.features,
    )
